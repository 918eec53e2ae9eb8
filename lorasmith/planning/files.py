"""Which files a start will leave, before it does: whole paths, the times in their names as YYYYMMDD_HHMMSS.

Only looks at what lies there. Knows no torch, and takes every name from the place where the engine has it from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lorasmith.config import RunConfig
from lorasmith.data.cache_folder import cache_folder
from lorasmith.runs.events import BestChosen, Evaluated
from lorasmith.runs.ledger import read_events, surviving
from lorasmith.runs.promotion import export_name_of
from lorasmith.runs.states import STATE_FILES, STEP_IN_NAME, find_states
from lorasmith.runtime.start import Start

TIME = "YYYYMMDD_HHMMSS"


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """Files of one name or pattern that will be there in the end and are new or changed."""

    path: str
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Cadence:
    """The steps of a start after which something is written."""

    saves: tuple[int, ...]  # states, step 0 of a new run among them; those by the clock aside
    exports: tuple[int, ...]  # LoRA files with the step in their name
    evaluations: tuple[int, ...]  # due; the last one is always made


def cadence_of(start: Start) -> Cadence:
    """When a start saves, exports and evaluates."""
    config, first, last = start.config, start.first_step, start.stop_at
    exports = _multiples(config.cadence.save_every, first, last)
    saves = {*exports, *([last] if start.owes_steps else []), *([0] if start.is_new else [])}
    evaluations = {*_multiples(config.evaluate_every, first, last), last} if is_evaluated(config) else set()
    return Cadence(tuple(sorted(saves)), tuple(exports), tuple(sorted(evaluations)))


def is_evaluated(config: RunConfig) -> bool:
    """Whether pictures are drawn at all."""
    return config.evaluate_every > 0


def planned_files(
    start: Start, *, samples: int, encoded: tuple[tuple[int, int], ...], by_clock: bool
) -> tuple[PlannedFile, ...]:
    """Everything that a start which ends well will have written, sorted by path.

    `samples` is the pictures of one evaluation; `encoded` how many files (least, most) the cache takes of pictures and
    of captions; `by_clock` whether states may be saved by the clock too.
    """
    run, config, cadence = start.run, start.config, cadence_of(start)
    name = config.export.name
    found = _Files()
    certain = 1 if start.owes_steps else 0  # of a run that only was not brought to its end, much may be there already
    for path in (run.ledger, run.supervisor_log, run.config, run.heartbeat, run.loss_log):
        found.add(path)
    found.add(run.export(name), certain, 1)
    found.add(run.tensorboard / "events.out.tfevents.*")
    for step in cadence.exports:
        found.add(run.export(name, step))
    _add_states(found, start, cadence, by_clock=by_clock)
    first = cadence.evaluations[:1] if start.is_new else ()
    for step in cadence.evaluations:
        # The others only if there is time for them.
        is_certain = start.owes_steps and (step in first or step == start.stop_at)
        found.add(run.samples / f"step-{step:08d}" / "*.png", samples if is_certain else 0, samples)
    if cadence.evaluations and not _has_control(start):
        found.add(run.samples / "control" / "*.png", samples)
    if cadence.evaluations and config.dataset.held_out:
        found.add(run.best_export(name), 0 if run.best_export(name).exists() and not start.is_new else certain, 1)
    report = run.training_logs / f"lora_training_report_{TIME}"
    found.add(report.with_suffix(".json"))
    found.add(report.with_suffix(".html"))
    if find_spec("matplotlib") is not None:
        found.add(run.training_logs / f"lora_training_curves_{TIME}.png")
    cache = cache_folder(Path(config.dataset.folder))
    for kind, (least, most) in zip(("latents", "text"), encoded, strict=True):
        found.add(cache / kind / "*.safetensors", least, most)
    for target in _moved_aside(start):
        found.add(target, certain, 1)
    return found.all()


class _Files:
    """Adds up how many of each pattern there are."""

    def __init__(self) -> None:
        self._least: Counter[str] = Counter()
        self._most: Counter[str] = Counter()

    def add(self, path: Path, least: int = 1, most: int | None = None) -> None:
        self._least[str(path)] += least
        self._most[str(path)] += least if most is None else most

    def all(self) -> tuple[PlannedFile, ...]:
        return tuple(PlannedFile(path, self._least[path], most) for path, most in sorted(self._most.items()) if most)


def _add_states(found: _Files, start: Start, cadence: Cadence, *, by_clock: bool) -> None:
    """The newest are kept; the clock may add some where fewer are due, the best step one."""
    config = start.config
    kept = config.cadence.keep_states
    least = min(kept, len(cadence.saves))
    most = kept if by_clock else least
    if cadence.evaluations and config.dataset.held_out:
        most += 1
    for name in STATE_FILES:
        found.add(start.run.root / f"{config.export.state_prefix}_{TIME}" / name, least, most)


def _multiples(every: int, first: int, last: int) -> list[int]:
    return list(range((first // every + 1) * every, last + 1, every)) if every else []


def _has_control(start: Start) -> bool:
    if start.is_new:
        return False
    events = surviving(read_events(start.run.ledger))
    return any(isinstance(event, Evaluated) and event.is_control for event in events)


def _moved_aside(start: Start) -> Iterator[Path]:
    """What goes to the backup folder, under its names there."""
    run = start.run
    name = export_name_of(run) if start.is_new else start.config.export.name
    if run.export(name).is_file():
        yield run.backup / f"{name}_backup_{TIME}.safetensors"
    rest = run.backup / f"run_{TIME}"
    if not start.is_new:
        for path in _above(start):
            yield rest / path.relative_to(run.root)
        return
    for path in _files_below(run.root.iterdir() if run.root.is_dir() else []):
        if path not in (run.export(name), run.lock, run.worker_lock):
            yield rest / path.relative_to(run.root)
    if run.loss_log.is_file():
        yield rest / run.loss_log.name


def _above(start: Start) -> Iterator[Path]:
    """The files of states, exports and samples of steps above the state that is gone on from, the best among them."""
    run = start.run
    doomed = [state.path for state in find_states(run.root)[0] if state.step > start.first_step]
    for path in [*run.root.glob("*-step*.safetensors"), *run.samples.glob("step-*")]:
        match = STEP_IN_NAME.search(path.name)
        if match is not None and int(match[1]) > start.first_step:
            doomed.append(path)
    best = [event for event in surviving(read_events(run.ledger)) if isinstance(event, BestChosen)]
    if best and best[-1].step > start.first_step and (run.root / best[-1].path).exists():
        doomed.append(run.root / best[-1].path)
    yield from _files_below(doomed)


def _files_below(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            yield from _files_below(path.iterdir())
        else:
            yield path
