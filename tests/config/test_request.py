"""The options of a single start, which are no part of the run."""

import pytest
from pydantic import ValidationError

from lorasmith.config import Request, RunConfig


def test_nothing_is_asked_for_by_default() -> None:
    assert Request().model_dump() == {
        "steps": None,
        "epochs": None,
        "memory": None,
        "output": "lora_output",
        "sample_prompts": "",
        "lang": "",
        "verbose": False,
    }


@pytest.mark.parametrize("field", ["steps", "epochs"])
@pytest.mark.parametrize("value", [0, -3, "abc", 1.5, True])
def test_steps_are_a_number_of_at_least_one(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Request.model_validate({field: value})
    assert getattr(Request.model_validate({field: 1}), field) == 1


@pytest.mark.parametrize("lang", ["de", "zh_CN", "english please"])
def test_only_the_languages_there_are(lang: str) -> None:
    with pytest.raises(ValidationError):
        Request.model_validate({"lang": lang})


@pytest.mark.parametrize(("lang", "meant"), [("zh_TW.UTF-8", "zh-TW"), ("zh-hant", "zh-TW"), ("EN", "en"), ("", "")])
def test_a_language_by_any_of_its_names(lang: str, meant: str) -> None:
    assert Request.model_validate({"lang": lang}).lang == meant


def test_what_one_start_asks_is_no_part_of_the_run() -> None:
    assert not set(Request.model_fields) & set(RunConfig.model_fields)
