import json
import re
from pathlib import Path

import pytest

from lorasmith import errors
from lorasmith.errors import ExitCode, TrainerError

# SPEC section 3, written out: whoever changes a number breaks somebody's script.
CODES = {
    "InputError": 2,
    "ConfigError": 2,
    "DatasetError": 2,
    "ModelError": 2,
    "ResumeError": 2,
    "NoStateError": 4,
    "LockedError": 3,
    "StopRequested": 5,
    "ResourceError": 6,
    "NonFiniteError": 8,
    "TrainerError": 70,
}


def kinds() -> dict[str, type[TrainerError]]:
    found = {name: one for name, one in vars(errors).items() if isinstance(one, type)}
    return {name: one for name, one in found.items() if issubclass(one, TrainerError)}


def test_each_error_ends_the_program_with_its_code() -> None:
    assert {name: int(one.exit_code) for name, one in kinds().items()} == CODES


def test_exit_codes_are_those_of_the_manual() -> None:
    assert sorted(int(one) for one in ExitCode) == [0, 2, 3, 4, 5, 6, 7, 8, 70]


@pytest.mark.parametrize("name", ["ConfigError", "DatasetError", "ModelError", "ResumeError", "NoStateError"])
def test_what_the_user_can_mend_is_an_input_error(name: str) -> None:
    assert issubclass(kinds()[name], errors.InputError)


@pytest.mark.parametrize("name", ["LockedError", "ResourceError", "NonFiniteError", "StopRequested"])
def test_what_the_user_cannot_mend_is_none(name: str) -> None:
    assert not issubclass(kinds()[name], errors.InputError)


def test_an_error_carries_a_code_and_fields_also_one_called_code() -> None:
    error = TrainerError("some_code", code=7, path="圖.png")
    assert error.code == "some_code"
    assert json.loads(json.dumps(error.fields)) == {"code": 7, "path": "圖.png"}
    assert str(error) == "some_code(code=7, path='圖.png')"
    assert "some_code" in repr(error)


@pytest.mark.parametrize("name", ["README.md", "README.zh-TW.md"])
def test_the_readme_lists_every_exit_code(name: str) -> None:
    text = (Path(__file__).parents[1] / name).read_text(encoding="utf-8")
    listed = [int(code) for code in re.findall(r"^\| ([0-9]+) \|", text, re.MULTILINE)]
    assert listed == [int(code) for code in ExitCode]
