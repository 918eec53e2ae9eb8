"""The report for programs: the whole summary as a JSON file, in codes and numbers. Knows no words."""

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
    """The file's bytes; text that cannot be encoded as UTF-8 is escaped."""
    plain = report_fields(summary, now=now)
    try:
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=1).encode()
    except UnicodeEncodeError:
        return json.dumps(plain, allow_nan=False, indent=1).encode()


def report_fields(summary: RunSummary, *, now: datetime) -> dict[str, Any]:
    """The report as JSON values; times are ISO 8601 with their offset."""
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
    """Wall-clock seconds since 1970 as ISO 8601 local time with its offset."""
    return None if time is None else datetime.fromtimestamp(time).astimezone().isoformat(timespec="seconds")


def _curves(curves: Curves) -> dict[str, Any]:
    """The curves as columns, which are short in JSON and easy to plot."""
    points = curves.points
    return {
        "step": [point.step for point in points],
        "epoch": [point.epoch for point in points],
        "total": [point.loss for point in points],
        "average": [point.average_loss for point in points],
        "learning_rate": [point.denoiser_lr for point in points],
        "grad_norm": [point.grad_norm for point in points],
        "seconds": [point.seconds for point in points],
        "evaluations": [_evaluation(evaluation) for evaluation in curves.evaluations],
        "control": None if curves.baseline is None else _evaluation(curves.baseline),
        "best": None if curves.best is None else asdict(curves.best),
    }


def _evaluation(evaluation: Evaluated) -> dict[str, Any]:
    return {name: value for name, value in asdict(evaluation).items() if name not in ("attempt", "is_control")}
