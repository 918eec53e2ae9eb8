"""Promotion of a run prepared by --new: moves the old run to the backup folder and the staged run to its place.

A plan of the moves is written first, so that the next start finishes a promotion interrupted by a kill. Nothing is ever
overwritten: if a name is taken after all, the incoming file gets another name.
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import shutil
from datetime import datetime
from pathlib import Path

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
from lorasmith.runs.naming import names_in

PLAN = "promotion.json"
CARRIED_OUT = "promotion.done.json"  # the plan after the moves: a rename needs no disk space


Moves = list[tuple[Path, Path]]


def moves_of(run: RunFolder, *, now: datetime) -> Moves:
    """The moves that clear `run` for a new run, as (source, destination): everything but the locks, and beside the run
    folder the LoRA files whose names the old or the staged run has.

    The export becomes `<its name>_backup_<time>.safetensors`; the rest goes to `run_<time>/`.
    """
    old, staged = names_in(run), names_in(run, run.staging / run.config.name)
    rest = free_name(run.backup / f"run_{stamp(now)}")
    moves: Moves = []
    for path in sorted({*run.root.iterdir(), *old.beside(), *staged.beside()}):
        if path in (old.last, staged.last) and (path == old.last or path.parent != run.root):
            moves.append((path, free_name(run.backup / f"{path.stem}_backup_{stamp(now)}.safetensors")))
        elif path not in (run.lock, run.worker_lock):
            moves.append((path, rest / path.name))
    if run.loss_log.exists():
        name = run.loss_log.name
        is_taken = any(target == rest / name for _, target in moves)
        moves.append((run.loss_log, rest / (f"{run.training_logs.name}_{name}" if is_taken else name)))
    return moves


def promote(run: RunFolder, *, now: datetime) -> None:
    """Moves the old run to the backup (see `moves_of`) and the contents of the staging folder to the run folder.

    Raises:
        InputError: the disk is full; nothing was moved.
        ResourceError: the disk of the backup is full; the next start carries out the rest of the plan.
    """
    with map_write_errors(run.root):  # nothing was moved yet, so the user can correct it
        _write_plan(run, moves_of(run, now=now))
        fault_point("promotion.planned")
    finish_promotion(run)


def finish_promotion(run: RunFolder) -> bool:
    """Carries out the rest of a plan; returns whether there was a plan.

    Raises:
        ResourceError: as `promote`.
    """
    plan, done = run.staging / PLAN, run.staging / CARRIED_OUT
    if plan.exists():
        beside = run.root.parent
        for source, target in json.loads(plan.read_bytes())["moves"]:
            move(beside / source, beside / target)
        fault_point("promotion.old_moved")
        # From here on the run folder holds the new run: nothing of it may be moved away again.
        plan.rename(done)
        sync_folder(run.staging)
    elif not done.exists():
        return False
    for staged in sorted(run.staging.iterdir()):
        if staged.name in run.names_while_loading():
            staged.unlink()
        elif staged != done and not staged.name.startswith("."):
            move(staged, run.root / staged.name)
    sync_folder(run.root)
    sync_folder(run.root.parent)  # the folder itself may be new
    fault_point("promotion.new_moved")
    remove_staging(run.staging)
    fault_point("promotion.done")
    return True


def strangers_in_staging(run: RunFolder) -> bool:
    """Whether the staging folder holds files that no start has put there: they belong to the user and must stay."""
    ours = {*run.names_while_loading(), PLAN, CARRIED_OUT, run.config.name}
    if not run.staging.is_dir():
        return False
    return any(path.name not in ours and not path.name.startswith(".") for path in run.staging.iterdir())


def remove_staging(folder: Path) -> None:
    """Removes a staging folder; again, if a stop request is written there meanwhile."""
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise


def back_up_export(run: RunFolder, export: Path, now: datetime) -> Path | None:
    """Copies an export to the backup folder, completely or not at all; None if there is none."""
    if not export.exists():
        return None
    make_folder(run.backup)
    target = free_name(run.backup / f"{export.stem}_backup_{stamp(now)}.safetensors")
    return write_atomically(target, export.read_bytes())


def move(source: Path, target: Path) -> None:
    """Renames `source` to `target`; between disks it copies to a hidden name, renames that, and only then removes the
    source. Can be repeated after an interruption at any point. Does nothing if there is no source.
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
        # Renamed first: a folder that is half removed must not look like a part of a run.
        source.rename(doomed)
        fault_point("move.doomed")
        _remove(doomed)


def _write_plan(run: RunFolder, moves: Moves) -> None:
    """Writes the plan. Its paths are relative to the parent of the run folder, which may be renamed meanwhile."""
    beside = run.root.parent
    rows = [[str(source.relative_to(beside)), str(target.relative_to(beside))] for source, target in moves]
    write_atomically(run.staging / PLAN, json.dumps({"moves": rows}).encode())


def _copy_whole(source: Path, target: Path) -> None:
    """Copies a file or a folder; it is on the disk before it gets its name."""
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


def _is_same(left: Path, right: Path) -> bool:
    """Whether both are links to the same place, files with equal bytes, or folders of such."""
    if left.is_symlink() or right.is_symlink():
        return left.is_symlink() and right.is_symlink() and left.readlink() == right.readlink()
    if left.is_dir() and right.is_dir():
        names = {path.name for path in left.iterdir()}
        return names == {path.name for path in right.iterdir()} and all(_is_same(left / n, right / n) for n in names)
    return left.is_file() and right.is_file() and filecmp.cmp(left, right, shallow=False)


def _remove(path: Path) -> None:
    """Removes a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
