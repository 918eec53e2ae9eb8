"""The files of a run: those that its ledger records, and those that are on disk now."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorasmith.runs.events import AdapterExported, BestChosen, CheckpointSaved, Event, RunStarted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.naming import FileNames
from lorasmith.runs.states import SavedState, find_states

REPORTS = "lora_training_*"
STAMP_LENGTH = len("YYYYMMDD_HHMMSS")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file that the run wrote, with its SHA-256 from the ledger (a state's is that of its manifest)."""

    kind: str  # export, best, state
    path: str  # from the run folder
    step: int
    sha256: str
    is_there: bool | None  # None: unknown


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The places of all files; a path that does not exist is None or left out."""

    lora: Path | None
    lora_bytes: int
    lora_step: int | None
    best_lora: Path | None
    step_loras: tuple[Path, ...]
    states: tuple[SavedState, ...]  # highest step first
    damaged_states: tuple[Path, ...]
    samples: Path | None
    tensorboard: Path | None
    loss_log: Path | None
    reports: tuple[Path, ...]  # newest first
    backup: Path | None


def recorded_files(others: Sequence[Event], present: Collection[str] | None) -> tuple[FileRecord, ...]:
    """Returns the newest record of each name, by step. `present` are the names in the run folder, and those
    of its LoRA files beside it; None: unknown."""
    found: dict[str, FileRecord] = {}
    for event in others:
        if isinstance(event, CheckpointSaved | AdapterExported | BestChosen):
            kind = "state" if isinstance(event, CheckpointSaved) else "export"
            if isinstance(event, BestChosen):
                kind = "best"
            is_there = None if present is None else event.path in present
            found[event.path] = FileRecord(kind, event.path, event.step, event.sha256, is_there)
    return tuple(sorted(found.values(), key=lambda file: (file.kind == "state", file.step, file.path)))


def find_files(names: FileNames, records: Sequence[FileRecord], *, first_start: RunStarted | None) -> RunFiles:
    """Lists the files of a run on disk. Reports older than its first start are an earlier run's in the same folder.

    Raises:
        OSError: something there cannot be read.
    """
    run = names.run
    states, damaged = find_states(run.root)
    set_aside = run.root.glob("*.damaged*") if run.root.is_dir() else iter(())
    lora = names.last
    lora_bytes = _bytes(lora)
    steps = [file.step for file in records if file.kind == "export" and file.path == names.recorded(lora)]
    return RunFiles(
        lora=lora if lora_bytes else None,
        lora_bytes=lora_bytes,
        lora_step=steps[0] if steps and lora_bytes else None,
        best_lora=_existing(names.best),
        step_loras=tuple(sorted({path for pattern in names.patterns for path in names.folder.glob(pattern)})),
        states=tuple(states),
        damaged_states=(*damaged, *sorted(set_aside)),
        samples=_existing(run.samples),
        tensorboard=_existing(run.tensorboard),
        loss_log=_existing(run.loss_log),
        reports=tuple(_reports(run, first_start)),
        backup=_existing(run.backup),
    )


def _reports(run: RunFolder, first_start: RunStarted | None) -> list[Path]:
    """The newest first, and of each time the page first."""
    if first_start is None or not run.training_logs.is_dir():
        return []
    found = [path for path in run.training_logs.glob(REPORTS) if path.stat().st_mtime >= first_start.time]
    return sorted(found, key=lambda path: (path.stem[-STAMP_LENGTH:], path.suffix == ".html"), reverse=True)


def _bytes(path: Path) -> int:
    """0 where there is no file: a run may remove it at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None
