from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorasmith.messages import LANGUAGES
from lorasmith.reading.attempts import Happening
from lorasmith.reading.summary import Picture, RunSummary, summary_of
from lorasmith.reports.html_tables import (
    MAX_PICTURES,
    attempts,
    data,
    environment,
    files,
    flat_settings,
    settings,
    speed,
    warnings,
)
from lorasmith.runs.events import LimitRaised, Warned, WorkerEnded, WorkerHung, WorkerRestarted
from lorasmith.ui.translator import Translator
from tests.reading.made_up import T0, started, stepped, watched
from tests.reports.page import parsed

EN = Translator("en")
HAPPENED = [
    WorkerHung(
        attempt=1,
        time=T0,
        step=5,
        phase="step",
        silent_seconds=61.4,
        limit_seconds=60.0,
        stack="A\nB",
        is_stopped=False,
    ),
    WorkerRestarted(attempt=1, time=T0, after="hung", reason="", step=4, in_vain=1),
    LimitRaised(attempt=1, time=T0, spent_seconds=100.0, limit_seconds=200.0, seconds_per_step=9.0),
]


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_supervisor_saw_is_told_with_its_stack(tmp_path: Path, language: str) -> None:
    ended = WorkerEnded(attempt=1, time=T0 + 9, status=-9, output="last\nwords")
    events = [started(tmp_path, 9), *stepped(range(1, 6))]
    found = summary_of(events, [*watched(1, status=None), *HAPPENED, ended])
    page = parsed(attempts(found, Translator(language)))
    assert len(page.all("pre")) == 2
    for told in ("61", "A B", "last words", "(-9)"):
        assert told in page.text
    assert "None" not in page.text


def test_a_happening_of_another_version_is_shown_as_it_is(summary: RunSummary) -> None:
    odd = replace(summary.attempts[0], happenings=(Happening("Abducted", T0, {"by": "aliens"}),))
    assert "Abducted by=aliens" in parsed(attempts(replace(summary, attempts=(odd,)), EN)).text


def test_settings_that_differ_from_the_defaults_come_first(summary: RunSummary) -> None:
    found = {name: is_default for name, _, is_default in flat_settings(summary)}
    assert {name for name, is_default in found.items() if not is_default} == {
        "base-model", "data", "hold-out", "rank", "save-every",
    }  # fmt: skip
    old = replace(summary, settings={"adapter": {"rank": 4}, "unknown": {"x": 1}})
    assert flat_settings(old) == [("rank", 4, False)]
    assert "None recorded" in parsed(settings(replace(summary, settings={}), EN)).text


def test_pictures_and_how_often_they_were_seen(summary: RunSummary) -> None:
    text = parsed(data(summary, EN)).text
    assert "10_leaf/leaf_00.png 10 64×64" in text
    assert "10_leaf/leaf_15.png – – held out" in text
    many = replace(summary.data, pictures=tuple(Picture(f"x/{number}.png", 1) for number in range(MAX_PICTURES + 7)))
    assert "in the JSON: 7" in parsed(data(replace(summary, data=many), EN)).text


def test_files_with_their_hashes_and_what_is_gone(summary: RunSummary) -> None:
    text = parsed(files(replace(summary, files=(replace(summary.files[0], is_there=False),)), EN)).text
    assert "no longer there" in text and "e" * 64 in text
    assert "No file was written" in parsed(files(replace(summary, files=()), EN)).text


def test_speed_environment_and_warnings(summary: RunSummary) -> None:
    assert "Step, median 0.41 s" in parsed(speed(summary, EN)).text
    assert "torch 2.13.0" in parsed(environment(summary, EN)).text
    assert warnings(summary, EN) == ""
    warned = replace(summary, warnings=(Warned(attempt=1, time=T0, code="prodigy_lr", fields={"lr": 0.1}),))
    assert "Prodigy" in parsed(warnings(warned, EN)).text
    nothing = summary_of([], [])
    assert speed(nothing, EN) == environment(nothing, EN) == ""
