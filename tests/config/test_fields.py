import sys
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from lorasmith.config import RunConfig
from lorasmith.config.fields import Option, Section, option, options_of
from lorasmith.errors import ConfigError


class Weather(Section):
    """A section for these tests."""

    rain: float = option("rain-per-day", 0.5, effect="learning", ge=0)
    storm: bool = option("storm", False, effect="cadence")
    days: int | None = option("days", None, effect="learning")
    place: str = "Taipei"


def test_a_field_says_that_it_is_an_option() -> None:
    found = options_of("weather", Weather)
    assert [(one.name, one.key, one.section, one.field_name) for one in found] == [
        ("rain-per-day", "rain_per_day", "weather", "rain"),
        ("storm", "storm", "weather", "storm"),
        ("days", "days", "weather", "days"),
    ]
    assert isinstance(found[0], Option) and found[0].field.default == 0.5


def test_how_an_option_is_typed_follows_from_its_type() -> None:
    class Odd(Section):
        pairs: dict[str, int] = option("pair", {}, effect="learning")
        texts: tuple[str, ...] = option("text", (), effect="learning")
        choice: Literal["a", "b"] | int = option("choice", 3, effect="learning")

    rain, storm, days, pairs, texts, choice = [*options_of("", Weather), *options_of("", Odd)]
    assert [known.is_flag for known in (rain, storm, days)] == [False, True, False]
    assert [known.is_repeated for known in (days, pairs, texts, choice)] == [False, True, True, False]
    assert (days.kinds, choice.kinds) == ([int], [("a", "b"), int])


def test_what_is_no_option_is_none() -> None:
    class Plain(BaseModel):
        number: int = 1

    assert options_of("plain", Plain) == []


def test_a_section_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Weather().rain = 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"rain": -1},
        {"rain": float("nan")},
        {"rain": float("inf")},
        {"rain": "much"},
        {"rain": True},
        {"days": False},
        {"days": 1.5},
        {"storm": "maybe"},
        {"storm": 2},
        {"place": True},
        {"place": 3},
        {"place": "a\udcffb"},
        {"wind": 1},
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Weather(**values)


def test_what_fits_is_taken() -> None:
    weather = Weather(rain=2, storm=True, days=3, place="臺北")
    assert (weather.rain, weather.storm, weather.days, weather.place) == (2.0, True, 3, "臺北")


def test_a_default_that_does_not_fit_is_refused_too() -> None:
    class Wrong(Section):
        rain: float = option("rain", -1.0, effect="learning", ge=0)

    with pytest.raises(ValidationError):
        Wrong()


UNDECODED = "訓".encode().decode("ascii", "surrogateescape")
PATHS = [("model", "base_model"), ("dataset", "folder"), ("adapter", "init_from"), ("evaluation", "clip_model")]


@pytest.mark.parametrize("field", [*PATHS, ("export", "name")])
@pytest.mark.parametrize("name", ["訓", UNDECODED])
def test_a_path_that_the_locale_cannot_encode(
    monkeypatch: pytest.MonkeyPatch, field: tuple[str, str], name: str
) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(ConfigError) as caught:
        RunConfig().with_values({field: name})
    assert (caught.value.code, caught.value.fields) == ("name_beyond_locale", {"name": "訓", "encoding": "ascii"})


def test_what_is_no_path_may_be_in_any_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert RunConfig().with_values({("dataset", "trigger_word"): "訓"}).dataset.trigger_word == "訓"
    with pytest.raises(ConfigError, match="name_beyond_locale"):
        RunConfig().with_values({("dataset", "trigger_word"): UNDECODED})
