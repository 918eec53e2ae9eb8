"""`lorasmith logs --json`: the status of the last run under fixed keys, for programs. No prose.

The keys are listed in DETAILED_LOSS_TRACKING_GUIDE.md. `format` grows when the meaning of a key changes.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorasmith.reading.metrics import VALIDATION, error_of, is_held_out
from lorasmith.reading.status import RunStatus

FORMAT = 1


def as_json(status: RunStatus) -> dict[str, Any]:
    """Returns JSON values only. Times are seconds since 1970, paths absolute; what is not known is null."""
    summary, start, newest = status.summary, status.start, status.newest
    best, stopped = summary.curves.best, status.stopped
    return {
        "format": FORMAT,
        "folder": str(status.run.root),
        "standing": status.standing,
        "is_going_on": status.is_going_on,
        "ending": None
        if stopped is None
        else {"reason": stopped.reason, "code": stopped.code, "exit_code": stopped.exit_code},
        "beat": None if status.beat is None else asdict(status.beat),
        "steps": {
            "asked": summary.stop_at or 0,
            "done": summary.done,
            "start_asked": max(0, summary.asked_steps or 0),
            "start_done": status.start_done,
            "resumed_from": status.resumed_from,
            "repeated": summary.repeated_steps,
            "cancelled": summary.cancelled_steps,
        },
        "losses": {name: _loss(status, name) for name in status.metrics},
        "best": None
        if best is None
        else {
            "step": best.step,
            "loss": best.loss,
            "standard_error": best.standard_error,
            "path": os.path.normpath(status.run.root / best.path),
        },
        "lr": {} if newest is None else newest.lr,
        "seconds_per_step": status.seconds_per_step,
        "training_seconds": summary.speed.stepping_seconds,
        "seconds_left": status.seconds_left,
        "device": status.device or None,
        "began": None if start is None else start.time,
        "newest": None if newest is None else newest.time,
        "starts": status.starts,
        "restarts": summary.restarts,
        "files": {name: _plain(value) for name, value in asdict(status.files).items()}
        | {"states": [{"path": str(state.path), "step": state.step} for state in status.files.states]},
        "findings": [asdict(notice) for notice in status.notices],
    }


def _loss(status: RunStatus, name: str) -> dict[str, Any]:
    metric = status.metrics[name]
    validated = status.newest_validation if name == VALIDATION else None
    return {
        "newest": metric.final,
        "newest_step": metric.final_step,
        "first": metric.first,
        "lowest": metric.least,
        "lowest_step": metric.least_step,
        "mean": metric.mean,
        "control": metric.baseline,
        "trend": metric.trend,
        "points": metric.count,
        "standard_error": None if validated is None else error_of(validated),
        "is_held_out": None if validated is None else is_held_out(validated),
        "unavailable": status.unavailable.get(name, ""),
    }


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
