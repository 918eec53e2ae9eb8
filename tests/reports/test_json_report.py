from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from lorasmith.reading.summary import RunSummary, summary_of
from lorasmith.reports.json_report import iso, json_report
from tests.reading.made_up import finished, started, watched

NOW = datetime(2026, 5, 28, 20, 30)
KEYS = {
    "format", "program", "made_at", "asked_steps", "stop_at", "done", "is_finished", "ending", "began", "ended",
    "attempts", "settings", "changes", "data", "curves", "losses", "unavailable", "validation_is_held_out", "speed",
    "use", "over_training", "memorisation", "samples", "repeated_steps", "warnings", "environment", "files",
    "interruptions", "noise_levels",
}  # fmt: skip


def test_it_has_every_key_and_every_step(summary: RunSummary) -> None:
    found = json.loads(json_report(summary, now=NOW))
    assert set(found) == KEYS
    assert found["format"] == 1
    assert found["curves"]["step"] == list(range(1, 301))
    columns = ("epoch", "total", "average", "learning_rate", "grad_norm", "seconds")
    assert {len(found["curves"][name]) for name in columns} == {300}
    assert set(found["losses"]) == {"total", "visual", "semantic", "color", "validation"}
    assert set(found["losses"]["color"]) >= {"first", "final", "least", "mean", "control", "trend"}
    assert [one["step"] for one in found["curves"]["evaluations"]] == [75, 150, 225, 300]
    assert found["curves"]["control"]["visual"] == 0.6
    assert found["use"]["against_control"] == "better" and found["samples"][0]["control"]
    assert found["memorisation"]["samples"][0]["control_similarity"] and found["losses"]["color"]["share_of_control"]
    assert found["use"]["step"] == 150
    assert all(len(one["sha256"]) == 64 for one in found["files"])
    assert found["data"]["seen"]["least"] <= found["data"]["seen"]["mean"] <= found["data"]["seen"]["most"]
    assert found["attempts"][0]["ending"]["reason"] == "reached"


def test_a_measure_that_could_not_be_taken_is_null_with_its_code(tmp_path: Path) -> None:
    events = finished(tmp_path, unavailable={"semantic": "no_clip_model"})
    found = json.loads(json_report(summary_of(events, watched(1)), now=NOW))
    assert found["losses"]["semantic"]["final"] is None
    assert found["unavailable"] == {"semantic": "no_clip_model"}


def test_nothing_and_names_that_are_no_text(tmp_path: Path) -> None:
    assert json.loads(json_report(summary_of([], []), now=NOW))["began"] is None
    odd = replace(started(tmp_path, 9), held_out=["\udcff.png"])
    assert json.loads(json_report(summary_of([odd], []), now=NOW))["data"]["held_out"]


def test_times_have_their_offset() -> None:
    assert iso(None) is None
    shown = iso(1_780_000_000.0)
    assert shown is not None and datetime.fromisoformat(shown).timestamp() == 1_780_000_000.0
