from typing import Any

import pytest
from pydantic import ValidationError

from lorasmith.config import CaptionsConfig


@pytest.mark.parametrize(
    ("given", "taken"),
    [("", (".txt", ".caption")), ("txt", (".txt",)), (" .TXT ", (".txt",)), (".wd14.txt", (".wd14.txt",))],
)
def test_an_extension_has_its_dot(given: str, taken: tuple[str, ...]) -> None:
    assert CaptionsConfig(extension=given).extensions == taken


@pytest.mark.parametrize(
    "given",
    [
        {"extension": "a/b"},
        {"extension": "."},
        {"separator": ""},
        {"dropout": 1.1},
        {"tag_dropout": -0.1},
        {"keep_tokens": -1},
        {"warmup_steps": 2.5},
        {"warmup_steps": -1},
    ],
)
def test_a_setting_has_its_range(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CaptionsConfig(**given)


@pytest.mark.parametrize(("asked", "steps"), [(0, 0), (0.25, 50), (1, 1), (30.0, 30)])
def test_steps_below_1_are_a_share_of_the_target(asked: float, steps: int) -> None:
    assert CaptionsConfig(warmup_steps=asked).resolved_warmup_steps(203) == steps
