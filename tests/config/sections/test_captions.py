from typing import Any

import pytest
from pydantic import ValidationError

from lorasmith.config import CaptionsConfig, RunConfig


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


@pytest.mark.parametrize(
    ("settings", "unused"),
    [
        ({}, []),
        (
            {"keep_tokens": 1, "warmup_tags": 2, "separator": ";"},
            ["token-warmup-min", "keep-tokens", "caption-separator"],
        ),
        ({"keep_tokens": 1, "separator": ";", "tag_dropout": 0.1}, []),
        ({"keep_tokens": 1, "warmup_tags": 2, "warmup_steps": 5.0}, []),
        ({"separator": ";", "secondary_separator": ";;"}, []),
    ],
)
def test_options_without_effect_are_known(settings: dict[str, Any], unused: list[str]) -> None:
    assert [one.option for one in CaptionsConfig(**settings).unused_options] == unused


def test_an_option_that_one_subset_uses_is_used() -> None:
    config = RunConfig().with_values({("captions", "keep_tokens"): 1})
    assert [one.option for one in config.unused_options] == ["keep-tokens"]
    tables = ({"data": "x", "shuffle_caption": True}, {"data": "y"})
    assert config.with_values({("dataset", "subsets"): tables}).unused_options == ()
