"""How a run prepared by --new takes its place: the old run to the backup folder, then the staged one in.

A plan of the moves is written first, so that a promotion cut short by a kill is finished by the next start. Nothing is
ever overwritten: where a name is taken after all, what comes gets another one.
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import shutil
from datetime import datetime
from pathlib import Path

from lorasmith.config import RunConfig, load_run_toml
from lorasmith.errors import ConfigError
from lorasmith.faults import fault_point
from lorasmith.runs.durable import (
    make_folder,
    map_disk_full,
    map_write_errors,
    retry_while_open,
    sync_folder,
    write_atomically,
)
from lorasmith.runs.layout import RunFolder, free_name, stamp

PLAN = "promotion.json"
CARRIED_OUT = "promotion.done.json"  # what the plan is called from then on: a rename needs no room on the disk
# What lies in a staging folder for the time of loading only.
PASSING = ("early.jsonl", "heartbeat", "pictures.json", "stop.request")


Moves = list[tuple[Path, Path]]


def moves_of(run: RunFolder, *, now: datetime) -> Moves:
    """(from, to) for all that `run` holds but the locks: where it goes to make room for a new run.

    The old run's export becomes `<its name>_backup_<time>.safetensors`; the rest goes to `run_<time>/`.
    """
    export_name = export_name_of(run)
    rest = free_name(run.backup / f"run_{stamp(now)}")
    moves: Moves = []
    for path in sorted(run.root.iterdir()):
        if path == run.export(export_name):
            moves.append((path, free_name(run.backup / f"{export_name}_backup_{stamp(now)}.safetensors")))
        elif path not in (run.lock, run.worker_lock):
            moves.append((path, rest / path.name))
    if run.loss_log.exists():
        name = run.loss_log.name
        is_taken = any(target == rest / name for _, target in moves)
        moves.append((run.loss_log, rest / (f"{run.training_logs.name}_{name}" if is_taken else name)))
    return moves


def promote(run: RunFolder, *, now: datetime) -> None:
    """Moves the old run away, as `moves_of` says, and what the staging folder holds in.

    Raises:
        InputError: the disk is full, and nothing was moved.
        ResourceError: the disk of the backup is full; the rest of the plan stays to be carried out.
    """
    with map_write_errors(run.root):  # nothing was moved yet: a full disk is the user's to mend
        _write_plan(run, moves_of(run, now=now))
        fault_point("promotion.planned")
    finish_promotion(run)


def finish_promotion(run: RunFolder) -> bool:
    """Carries out a plan that is there, or what is left of it; whether there was one.

    Raises:
        ResourceError: as `promote`.
    """
    plan, done = run.staging / PLAN, run.staging / CARRIED_OUT
    if plan.exists():
        beside = run.root.parent
        for source, target in json.loads(plan.read_bytes())["moves"]:
            move(beside / source, beside / target)
        fault_point("promotion.old_moved")
        # From here on what lies in the run is the new one's: nothing of it may be moved away again.
        plan.rename(done)
        sync_folder(run.staging)
    elif not done.exists():
        return False
    for staged in sorted(run.staging.iterdir()):
        if staged.name in PASSING:
            staged.unlink()
        elif staged != done and not staged.name.startswith("."):
            move(staged, run.root / staged.name)
    sync_folder(run.root)
    sync_folder(run.root.parent)  # where the folder itself is new
    fault_point("promotion.new_moved")
    remove_staging(run.staging)
    fault_point("promotion.done")
    return True


def strangers_in_staging(run: RunFolder) -> bool:
    """Whether something lies there that no start of a run has put there: it is somebody's, and is not to be removed."""
    ours = {*PASSING, PLAN, CARRIED_OUT, run.config.name}
    if not run.staging.is_dir():
        return False
    return any(one.name not in ours and not one.name.startswith(".") for one in run.staging.iterdir())


def remove_staging(folder: Path) -> None:
    """Removes a staging folder. A stop request may be put there meanwhile: then once more."""
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise


def back_up_export(run: RunFolder, export_name: str, now: datetime) -> Path | None:
    """Copies the export of that name to the backup folder, whole or not at all; None where there is none."""
    export = run.export(export_name)
    if not export.exists():
        return None
    make_folder(run.backup)
    target = free_name(run.backup / f"{export_name}_backup_{stamp(now)}.safetensors")
    return write_atomically(target, export.read_bytes())


def move(source: Path, target: Path) -> None:
    """A rename; where the two lie on different disks a copy under a hidden name, a rename, and only then a removal.

    Can be repeated after it was cut short anywhere. Does nothing where there is no source.
    """
    doomed = source.with_name(f".{source.name}.moved.tmp")
    if os.path.lexists(doomed):
        _remove(doomed)
    if not os.path.lexists(source):
        return
    with map_disk_full(target):
        make_folder(target.parent)
        fault_point("move.begun")
        if os.path.lexists(target) and not _is_same(source, target):
            target = free_name(target)
        if not os.path.lexists(target):
            try:
                retry_while_open(lambda: source.rename(target))
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _copy_whole(source, target)
        fault_point("move.renamed")
    sync_folder(target.parent)
    if os.path.lexists(source):
        # Renamed first: what is half removed must not look like a part of a run.
        source.rename(doomed)
        fault_point("move.doomed")
        _remove(doomed)


def export_name_of(run: RunFolder) -> str:
    """The name of the old run's export; of a run that cannot tell, the default."""
    try:
        return load_run_toml(run.config).export.name
    except ConfigError:
        return RunConfig().export.name


def _write_plan(run: RunFolder, moves: Moves) -> None:
    """Paths are relative to where the run folder lies, as that may be renamed before the plan is carried out."""
    beside = run.root.parent
    rows = [[str(source.relative_to(beside)), str(target.relative_to(beside))] for source, target in moves]
    write_atomically(run.staging / PLAN, json.dumps({"moves": rows}).encode())


def _copy_whole(source: Path, target: Path) -> None:
    """Everything below `source`, on the disk before it has its name."""
    temporary = target.with_name(f".{target.name}.copied.tmp")
    if os.path.lexists(temporary):
        _remove(temporary)
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, temporary, symlinks=True, copy_function=_copy_file)
    else:
        _copy_file(source, temporary)
    fault_point("copy.whole")
    temporary.rename(target)
    fault_point("copy.renamed")


def _copy_file(source: str | Path, target: str | Path) -> None:
    shutil.copy2(source, target, follow_symlinks=False)
    if not Path(target).is_symlink():
        with open(target, "rb+") as file:
            fault_point("copy.file")
            os.fsync(file.fileno())


def _is_same(one: Path, other: Path) -> bool:
    """Whether both are links to one place, files of the same bytes, or folders of such."""
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    if one.is_dir() and other.is_dir():
        names = {path.name for path in one.iterdir()}
        return names == {path.name for path in other.iterdir()} and all(_is_same(one / n, other / n) for n in names)
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
