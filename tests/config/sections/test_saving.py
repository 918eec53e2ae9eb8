import pytest
from pydantic import ValidationError

from lorasmith.config.sections import ExportConfig


@pytest.mark.parametrize("name", ["last", "貓 v1.5", "a" * 120, "字" * 60, "con cat", "auxiliary", "-x", "com"])
def test_a_name_is_a_file_name(name: str) -> None:
    assert ExportConfig(name=name).name == name


NO_NAMES = [
    "a/b",
    "a\\b",
    "..",
    ".hidden",
    "a.",
    "a:b",
    "a?",
    "a*",
    'a"',
    "<a>",
    "a|",
    "con",
    "NUL",
    "Aux.v2",
    "com1",
    "lpt9",
    "nul.tar",
]


@pytest.mark.parametrize("name", [*NO_NAMES, "", " a", "a ", "a\n", "a\x00", "x" * 121, "字" * 61, "lpt9 .x"])
def test_what_no_file_can_be_called_everywhere_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ExportConfig(name=name)


def test_there_is_room_for_all_that_is_added_to_a_name() -> None:
    # The longest: the temporary name of a second backup of one second.
    longest = "字" * 60
    made = f".{longest}_backup_20250304_120506_99.safetensors.4194304.tmp"
    assert ExportConfig(name=longest) and len(made.encode()) <= 255
