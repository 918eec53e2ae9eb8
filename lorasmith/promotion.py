"""How a run prepared by --new takes its place: the old run to the backup folder, then the staged one in.

A plan of the moves is written first, so that a promotion cut short by a kill is finished by the next start.
"""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime
from pathlib import Path

from lorasmith.config import load_run_toml
from lorasmith.run_folder import RunFolder, free_name, stamp, sync_folder, write_atomically

PLAN = "promotion.json"
# What lies in a staging folder for the time of loading only.
PASSING = ("early.jsonl", "heartbeat", "stop.request")


def promote(run: RunFolder, *, now: datetime) -> None:
    """Moves what `run` holds to its backup folder and what its staging folder holds in; only the lock stays.

    The old run's export becomes `<its name>_backup_<time>.safetensors`; the rest goes to `run_<time>/`.
    """
    export_name = load_run_toml(run.config).export.name if run.config.exists() else "last"
    rest = free_name(run.backup / f"run_{stamp(now)}")
    moves = []
    for path in sorted(run.root.iterdir()):
        if path.name == f"{export_name}.safetensors":
            backup = free_name(run.backup / f"{export_name}_backup_{stamp(now)}.safetensors")
            moves.append([str(path), str(backup)])
        elif path != run.lock:
            moves.append([str(path), str(rest / path.name)])
    if run.loss_log.exists():
        moves.append([str(run.loss_log), str(rest / run.loss_log.name)])
    write_atomically(run.staging / PLAN, json.dumps({"moves": moves}).encode())
    finish_promotion(run)


def finish_promotion(run: RunFolder) -> bool:
    """Carries out a plan that is there, each move at most once; whether there was one."""
    plan = run.staging / PLAN
    if not plan.exists():
        return False
    for source, target in json.loads(plan.read_bytes())["moves"]:
        if os.path.lexists(source) and not os.path.lexists(target):
            move(Path(source), Path(target))
    for staged in sorted(run.staging.iterdir()):
        if staged.name in PASSING:
            staged.unlink()
        elif staged != plan:
            move(staged, run.root / staged.name)
    sync_folder(run.root)
    shutil.rmtree(run.staging)
    return True


def back_up_export(run: RunFolder, export_name: str, now: datetime) -> Path | None:
    """Copies the export of that name to the backup folder, whole or not at all; None where there is none."""
    export = run.export(export_name)
    if not export.exists():
        return None
    run.backup.mkdir(parents=True, exist_ok=True)
    target = free_name(run.backup / f"{export_name}_backup_{stamp(now)}.safetensors")
    return write_atomically(target, export.read_bytes())


def move(source: Path, target: Path) -> None:
    """A rename, or a copy and removal where the two lie on different disks."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
    sync_folder(target.parent)
