"""`lorasmith logs --json`: the facts of the last run under fixed keys, for programs. No prose.

The keys are listed in DETAILED_LOSS_TRACKING_GUIDE.md. `format` grows when one of them changes its meaning.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorasmith.ui.last_run import Files, LastRun

FORMAT = 1


def as_json(facts: LastRun) -> dict[str, Any]:
    """JSON values only. Times are seconds since 1970, paths absolute, what is not known is null."""
    best = facts.best
    return {
        "format": FORMAT,
        "folder": str(facts.run.root),
        "standing": facts.standing,
        "is_going_on": facts.is_going_on,
        "ending": None
        if facts.ending is None
        else {"reason": facts.ending.reason, "code": facts.ending.code, "exit_code": facts.ending.exit_code},
        "beat": None if facts.beat is None else asdict(facts.beat),
        "steps": asdict(facts.steps),
        "losses": {name: asdict(measure) for name, measure in facts.measures.items()},
        "best": None
        if best is None
        else {
            "step": best.step,
            "loss": best.loss,
            "standard_error": best.standard_error,
            "path": str(facts.run.root / best.path),
        },
        "lr": facts.lr,
        "seconds_per_step": facts.seconds_per_step,
        "training_seconds": facts.training_seconds,
        "seconds_left": facts.seconds_left,
        "device": facts.device or None,
        "began": facts.began,
        "newest": facts.newest,
        "starts": facts.starts,
        "restarts": facts.restarts,
        "files": _files(facts.files),
        "findings": [asdict(one) for one in facts.findings],
    }


def _files(files: Files) -> dict[str, Any]:
    return {
        "lora": _path(files.lora),
        "lora_bytes": files.lora_bytes,
        "lora_step": files.lora_step,
        "best_lora": _path(files.best_lora),
        "step_loras": [str(path) for path in files.step_loras],
        "states": [{"path": str(one.path), "step": one.step} for one in files.states],
        "damaged_states": [str(path) for path in files.damaged_states],
        "samples": _path(files.samples),
        "tensorboard": _path(files.tensorboard),
        "loss_log": _path(files.loss_log),
        "reports": [str(path) for path in files.reports],
        "backup": _path(files.backup),
    }


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
