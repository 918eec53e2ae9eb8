"""Reports of runs that ended in every way a run can end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from lorasmith.messages import LANGUAGES
from lorasmith.reading.reader import read_summary
from lorasmith.reports import drawing, making, page
from lorasmith.reports.making import make_reports
from lorasmith.runs.events import Event
from lorasmith.runs.layout import RunFolder
from lorasmith.ui.render import report_lines
from lorasmith.ui.translator import Translator
from tests.reading.made_up import evaluated, finished, saved, started, stepped, stopped, watched, written
from tests.reports.html import parsed

NOW = datetime(2026, 5, 28, 20, 30, 1)
DATA = Path("data")


def continued_three_times() -> tuple[list[Event], list[Event]]:
    events: list[Event] = [started(DATA, 5), *stepped(range(1, 6)), *saved(5), stopped(5, "reached")]
    for attempt in (2, 3, 4):
        done = 5 * (attempt - 1)
        events += [started(DATA, done + 5, attempt=attempt, resumed_from=done)]
        events += [*stepped(range(done + 1, done + 6), attempt=attempt), *saved(done + 5, attempt=attempt)]
        events += [evaluated(done + 5, DATA, attempt=attempt), stopped(done + 5, "reached", attempt=attempt)]
    return events, [one for attempt in (1, 2, 3, 4) for one in watched(attempt, supervisor=attempt)]


ENDS: dict[str, tuple[Sequence[Event], Sequence[Event], str, int]] = {
    "finished": (finished(DATA), watched(1), "reached", 300),
    "stopped": (
        [started(DATA, 9), *stepped(range(1, 5)), *saved(4), stopped(4, "asked", exit_code=5)], watched(1), "asked", 4,
    ),
    "killed": ([started(DATA, 9), *stepped(range(1, 5))], watched(1, status=-9), "died", 4),
    "killed with its supervisor": ([started(DATA, 9), *stepped(range(1, 5))], watched(1, status=None), "unknown", 4),
    "failed at step 0": (
        [started(DATA, 9), stopped(0, "failed", code="out_of_memory", fields={"step": 1}, exit_code=6)],
        watched(1, status=6), "failed", 0,
    ),
    "continued three times": (*continued_three_times(), "reached", 20),
    "an empty ledger": ([], [], "unknown", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_every_end_has_its_report(tmp_path: Path, name: str) -> None:
    events, watching, reason, done = ENDS[name]
    run = written(tmp_path / "lora_output", events, watching)
    for language in LANGUAGES if name == "finished" else ("en",):
        files = make_reports(run, Translator(language), now=NOW)
        assert files.warnings == []
        assert files.json is not None and files.png is not None and files.html is not None
        found = json.loads(files.json.read_bytes())
        assert (found["ending"]["reason"], found["done"]) == (reason, done)
        with Image.open(files.png) as picture:
            assert picture.format == "PNG"
        assert parsed(files.html.read_text(encoding="utf-8")).loads() == []


def test_an_old_ledger_with_a_torn_last_line_and_events_nobody_knows(tmp_path: Path) -> None:
    run = written(tmp_path / "lora_output", [started(DATA, 9), *stepped(range(1, 5))], watched(1))
    lines = run.ledger.read_text().splitlines()
    first = json.loads(lines[0])
    first["settings"] = {"training": {"accumulation_steps": 1}, "adapter": {"rank": 4}}
    unknown = json.dumps({"event": "OfTheFuture", "attempt": 1, "time": 0, "x": 1})
    torn = '{"event": "StepCompleted", "attempt": 1, "ti'
    run.ledger.write_text("\n".join([json.dumps(first), unknown, "no json", *lines[1:], torn]))
    before = run.ledger.read_bytes()
    files = make_reports(run, Translator("en"), now=NOW)
    assert len(files.made) == 3
    assert read_summary(run).done == 4
    assert run.ledger.read_bytes() == before  # a reader mends nothing


def test_names_share_one_stamp_and_a_later_report_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "draw_png", lambda *_: b"a picture")
    run = written(tmp_path / "lora_output", [started(DATA, 9)])
    for _ in range(2):
        make_reports(run, Translator("en"), now=NOW)
    assert sorted(path.name for path in run.training_logs.iterdir()) == sorted(
        f"lora_training_{name}"
        for mark in ("20260528_203001", "20260528_203001_2")
        for name in (f"report_{mark}.json", f"curves_{mark}.png", f"report_{mark}.html")
    )


def test_a_matplotlib_that_cannot_be_loaded_is_named_and_the_rest_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    place = tmp_path / "site-packages" / "matplotlib"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("raise AttributeError('_ARRAY_API not found')")
    monkeypatch.syspath_prepend(place.parent)
    files = make_reports(written(tmp_path / "lora_output", [started(DATA, 9)]), Translator("en"), now=NOW)
    assert (files.png, len(files.made)) == (None, 2)
    ((_, fields),) = files.warnings
    assert fields.pop("path").endswith(".png")
    assert fields == {
        "module": "matplotlib",
        "reason": "AttributeError: _ARRAY_API not found",
        "command": "pip install --force-reinstall matplotlib",
    }
    assert files.html is not None
    assert "matplotlib cannot be used" in parsed(files.html.read_text(encoding="utf-8")).text
    (line, hint, *_) = report_lines(Translator("en"), files)
    assert "_ARRAY_API" in line and "lorasmith report" in hint


@pytest.mark.parametrize(
    "error", [ImportError("DLL load failed"), ValueError("cannot convert float NaN"), MemoryError("no room")], ids=repr
)
def test_a_library_that_cannot_draw_costs_its_own_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(drawing, "draw_png", broken)
    files = make_reports(written(tmp_path / "lora_output", [started(DATA, 9)]), Translator("en"), now=NOW)
    assert (files.png, len(files.made)) == (None, 2)
    ((code, fields),) = files.warnings
    assert code == "report_failed" and fields["path"].endswith(".png") and str(error) in fields["reason"]
    assert files.html is not None
    assert str(error) in parsed(files.html.read_text(encoding="utf-8")).text


def test_without_jinja2_the_rest_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr(drawing, "draw_png", lambda *_: b"a picture")
    page._template.cache_clear()
    files = make_reports(written(tmp_path / "lora_output", [started(DATA, 9)]), Translator("en"), now=NOW)
    assert files.made == [files.png, files.json]
    assert [(code, fields["module"]) for code, fields in files.warnings] == [("report_without_library", "jinja2")]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    run = written(tmp_path / "lora_output", [started(DATA, 9)])
    run.training_logs.write_text("a file in its place")
    files = make_reports(run, Translator("en"), now=NOW)
    assert files.made == []
    assert [fields["path"] for _, fields in files.warnings] == [str(run.training_logs)]


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = written(tmp_path / "lora_output", [started(DATA, 9)])

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(drawing, "draw_png", lambda *_: b"a picture")
    files = make_reports(run, Translator("en"), now=NOW)
    assert [fields["reason"] for _, fields in files.warnings] == ["No space left on device"] * 3
    assert list(run.training_logs.iterdir()) == []


def test_a_run_folder_that_is_not_there_has_an_empty_summary(tmp_path: Path) -> None:
    assert read_summary(RunFolder(tmp_path / "nowhere")).done == 0


def test_a_ledger_that_cannot_be_summed_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: RunFolder) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(making, "read_summary", broken)
    files = make_reports(written(tmp_path / "lora_output", [started(DATA, 9)]), Translator("en"), now=NOW)
    assert files.made == []
    assert [fields["reason"] for _, fields in files.warnings] == ["ValueError: no such thing"]
