from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lorasmith.messages import LANGUAGES, has
from lorasmith.reading.reader import RunReader
from lorasmith.reading.status import Notice, RunStatus, Standing, read_status
from lorasmith.runs.layout import RunFolder
from lorasmith.ui.layout import cells
from lorasmith.ui.translator import Translator
from lorasmith.ui.viewer import RunView, progress_line
from tests.reading.made_runs import begun, ended, evaluated, finished_run, made_run, stepped


def status_of(run: RunFolder) -> RunStatus:
    return read_status(RunReader(run), now=time.time())


def drawn(status: RunStatus, *, width: int = 100, language: str = "en", encoding: str = "utf-8") -> str:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    here = status.run.root.parent
    console.print(RunView(Translator(language), status, train_command="lorasmith train", here=here))
    out.flush()
    out.seek(0)
    return out.read()


def test_a_person_s_answer(tmp_path: Path) -> None:
    text = drawn(status_of(finished_run(tmp_path / "lora_output")))
    assert text.startswith("`lora_output`: finished, 20 of 20 steps\n")
    rows = [line.split() for line in text.splitlines()]
    assert ["Visual", "0.3000", "0.4500", "0.3000", "@20", "0.6000", "falling"] in rows
    assert ["Color", "0.3000", "0.3000", "0.3000", "@5", "0.7000", "no", "trend"] in rows
    assert ["Validation", "0.2000", "+-0.0100", "0.2000", "0.2000", "@5", "-", "no", "trend"] in rows
    assert ["Semantic", "N/A", "-", "-", "-", "-"] in rows
    assert "N/A, Semantic: " in text
    assert "Learning rate   0.0001" in text and "2.00 s/step on cuda:0 bf16; 0:00:40 of training" in text
    for path in ("lora_output/last.safetensors", "lora_output/last-best.safetensors", "lora_output/state_x"):
        assert f"`{path}`" in text
    assert "3.0 MB, step 20" in text and "training_logs/lora_training_report_20261122_150000.html" in text
    assert "restarted" not in text and "--continue" not in text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
def test_it_fits_the_window(tmp_path: Path, language: str, width: int) -> None:
    lines = drawn(status_of(finished_run(tmp_path / "r")), width=width, language=language).splitlines()
    assert max(map(cells, lines)) <= width
    if width >= 120:
        assert len(lines) <= 24  # a screen
    assert "20/20" in lines[0] + lines[1] or "20 of 20" in lines[0] + lines[1] + lines[2]


def test_a_narrow_window_cuts_no_word_in_the_table(tmp_path: Path) -> None:
    status = status_of(finished_run(tmp_path / "r"))
    for width in range(34, 120):
        assert "\u2026" not in drawn(status, width=width)


def test_in_ascii_all_of_it_is_ascii(tmp_path: Path) -> None:
    text = drawn(status_of(finished_run(tmp_path / "r")), encoding="ascii")
    assert text.isascii() and "***" in text and "###" in text and "?" not in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_standing_has_its_sentence(tmp_path: Path, language: str) -> None:
    status = status_of(finished_run(tmp_path / "r"))
    found = set()
    for standing in Standing.__args__:  # type: ignore[attr-defined]
        found.add(drawn(replace(status, standing=standing), language=language).splitlines()[0])
        going_on = replace(status, standing=standing)
        if going_on.is_going_on and standing != "running":
            assert has(language, f"logs.short.{standing}")
            assert progress_line(Translator(language), going_on)
    assert len(found) == len(Standing.__args__)  # type: ignore[attr-defined]


def test_what_is_wrong_stands_on_top_with_what_to_do(tmp_path: Path) -> None:
    events = [begun(10), *stepped(1, 4), ended(4, "failed", code="out_of_memory", fields={"step": 5})]
    status = status_of(made_run(tmp_path / "lora_output", events))
    lines = drawn(status).splitlines()
    assert lines[0] == "`lora_output`: FAILED after step 4 of 10"
    assert lines[2].startswith("Error: Out of memory at step 5") and lines[3].startswith("hint: ")


def test_more_findings_than_a_screen_takes_are_counted(tmp_path: Path) -> None:
    status = status_of(finished_run(tmp_path / "r"))
    many = tuple(Notice("warning", "state_unusable", {"path": f"s{number}"}) for number in range(9))
    text = drawn(replace(status, notices=many))
    assert "`s5`" in text and "`s6`" not in text and "and 3 more" in text


def test_a_report_counts_once_though_it_is_three_files(tmp_path: Path) -> None:
    status = status_of(finished_run(tmp_path / "r"))
    for kinds, count in ((("html", "json", "png"), 2), (("json", "png"), 4)):  # without jinja there is no page
        paths = tuple(tmp_path / f"{number}.{kind}" for number in (2, 1) for kind in kinds)
        lines = drawn(replace(status, files=replace(status.files, reports=paths)), width=300).splitlines()
        (line,) = (line for line in lines if line.startswith("Reports"))
        assert f" {count}, newest `{paths[0].name}`" in line


def test_a_run_that_can_go_on_says_how(tmp_path: Path) -> None:
    status = replace(status_of(finished_run(tmp_path / "r")), standing="stopped")
    assert "`lorasmith train --continue`" in drawn(status)


def test_starts_and_restarts_are_told_where_there_were_some(tmp_path: Path) -> None:
    status = status_of(finished_run(tmp_path / "r"))
    restarted = tuple(replace(status.summary.attempts[0], is_restart=True) for _ in range(2))
    status = replace(status, starts=3, summary=replace(status.summary, attempts=restarted))
    assert "3, automatic restarts: 2" in drawn(status)


def test_validation_on_trained_pictures_is_called_so(tmp_path: Path) -> None:
    validation = {"loss": 0.2, "standard_error": None, "is_held_out": False}
    run = made_run(tmp_path, [begun(4), *stepped(1, 4), evaluated(4, validation=validation), ended(4)])
    text = drawn(status_of(run))
    assert "Validation*  0.2000 " in text and "*: no pictures are held out" in text


def test_a_reason_of_a_newer_version_is_shown_as_it_is(tmp_path: Path) -> None:
    run = made_run(tmp_path, [begun(4), *stepped(1, 4), evaluated(4, unavailable={"color": "moon_phase"})])
    assert "N/A, Color: moon_phase" in drawn(status_of(run))


def test_where_nothing_was_ever_done_it_draws_its_headline_alone(tmp_path: Path) -> None:
    assert len(drawn(status_of(RunFolder(tmp_path)), width=200).splitlines()) == 1


def test_a_start_that_has_said_nothing_yet_is_loading(tmp_path: Path) -> None:
    status = replace(status_of(RunFolder(tmp_path / "r")), standing="loading")
    assert drawn(status) == "`r`: a start is loading (loading the model)\n"
    assert progress_line(Translator("en"), status) == "loading"


def test_progress_in_a_line(tmp_path: Path) -> None:
    status = status_of(made_run(tmp_path, [begun(10), *stepped(1, 4)]))
    line = progress_line(Translator("en"), replace(status, standing="running", seconds_left=12.0))
    assert line == "4 of 10 steps  loss 0.9960  average 0.9975  left 0:00:12"
