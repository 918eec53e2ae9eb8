"""The report for programs: everything of the summary as one JSON file, in codes and numbers. Knows no words."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from lorasmith import __version__
from lorasmith.reading.fold import Curves
from lorasmith.reading.summary import RunSummary
from lorasmith.runs.events import Evaluated

FORMAT = 1
# The keys of the file where they differ from the names of the fields.
KEYS = {
    "baseline": "control",
    "share_of_baseline": "share_of_control",
    "against_baseline": "against_control",
    "baseline_similarity": "control_similarity",
}


def json_report(summary: RunSummary, *, now: datetime) -> bytes:
    """The file's bytes. Text that no file could hold as UTF-8 is escaped."""
    plain = report_fields(summary, now=now)
    try:
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=1).encode()
    except UnicodeEncodeError:
        return json.dumps(plain, allow_nan=False, indent=1).encode()


def report_fields(summary: RunSummary, *, now: datetime) -> dict[str, Any]:
    """JSON values. Times are ISO 8601 with their offset."""
    plain = {
        "format": FORMAT,
        "program": {"name": "lorasmith", "version": __version__},
        "made_at": now.astimezone().isoformat(timespec="seconds"),
        **asdict(replace(summary, curves=Curves((), None)), dict_factory=_with_keys),
        "interruptions": summary.interruptions,
        "curves": _curves(summary.curves),
    }
    plain["began"], plain["ended"] = iso(summary.began), iso(summary.ended)
    for attempt, shown in zip(summary.attempts, plain["attempts"], strict=True):
        shown |= {"began": iso(attempt.began), "ended": iso(attempt.ended), "seconds": attempt.seconds}
    times = summary.data.times_seen
    if times:
        plain["data"] |= {"seen": {"least": min(times), "mean": sum(times) / len(times), "most": max(times)}}
    return plain


def _with_keys(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {KEYS.get(name, name): value for name, value in fields}


def iso(time: float | None) -> str | None:
    """Wall-clock seconds as local time with its offset."""
    return None if time is None else datetime.fromtimestamp(time).astimezone().isoformat(timespec="seconds")


def _curves(curves: Curves) -> dict[str, Any]:
    """Columns: as short as JSON gets, and what a table or a plot wants."""
    points = curves.points
    return {
        "step": [one.step for one in points],
        "epoch": [one.epoch for one in points],
        "total": [one.loss for one in points],
        "average": [one.average_loss for one in points],
        "learning_rate": [one.denoiser_lr for one in points],
        "grad_norm": [one.grad_norm for one in points],
        "seconds": [one.seconds for one in points],
        "evaluations": [_evaluation(one) for one in curves.evaluations],
        "control": None if curves.baseline is None else _evaluation(curves.baseline),
        "best": None if curves.best is None else asdict(curves.best),
    }


def _evaluation(evaluation: Evaluated) -> dict[str, Any]:
    return {name: value for name, value in asdict(evaluation).items() if name not in ("attempt", "is_control")}
