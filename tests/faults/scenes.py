"""Small runs that between them come past every fault point, what a person types after they were cut short, and what
must hold then. Supervisor, worker and the files that follow the ledger in one process, which is forked and may be
killed.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from lorasmith import faults
from lorasmith.config import Request
from lorasmith.errors import ConfigError, ExitCode, NoStateError
from lorasmith.reports.projections import projections_of
from lorasmith.runs.events import CheckpointSaved, RunStarted, StepCompleted
from lorasmith.runs.ledger import read_events, steps, surviving
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.promotion import PLAN
from lorasmith.runs.states import damage_of, find_states, newest_good
from lorasmith.runtime import supervisor as supervisor_module
from lorasmith.runtime.cleanup import clear_staging, remove_unfinished
from lorasmith.runtime.preflight import Start, continued_run
from lorasmith.runtime.progress import progress_of
from lorasmith.runtime.supervisor import Supervisor
from tests.end_to_end.workshop import InProcess, Values, Workshop, digest
from tests.faults.forked import in_child
from tests.faults.looked_at import EVALUATED

SAVE_EVERY = 2
TARGET = 5
SMALL: Values = {("adapter", "rank"): 2, ("training", "batch_size"): 2}
OLD: Values = {**SMALL, ("", "seed"): 7, ("cadence", "save_every"): 1}
NEW: Values = {**SMALL, ("cadence", "save_every"): SAVE_EVERY, ("cadence", "keep_states"): 2}
BEFORE: Values = {**NEW, ("cadence", "save_every"): 1, ("cadence", "keep_states"): 9}
DONE_BEFORE = 3
LOOKED_AT = "looked_at"
WATCHED: Values = {**NEW, **EVALUATED}
NOTHING_OWED = "nothing_owed"


@dataclass(frozen=True)
class Result:
    """What must be the same however often a run was disturbed."""

    step: int
    digest: tuple[str, str]
    optimizer_steps: frozenset[int]
    export: str
    losses: dict[int, float]
    examples: list[list[int]]


@dataclass(frozen=True)
class Scene:
    """A folder as it lies there, and a start in it."""

    name: str
    prepare: Callable[[Workshop], None]
    start: Callable[[Workshop], Start]
    again: Callable[[Workshop], Start | None]  # what is typed after it failed; None: it is all done
    is_other_disk: bool = False  # the backup lies on another one
    is_cold: bool = False  # nothing is cached yet: the pictures and their cache lie in the folder itself

    def disturbed(self, workshop: Workshop, fault: str) -> int:
        return in_child(lambda: self._follow(lambda: self.start(workshop)), fault=fault)

    def go_on(self, workshop: Workshop) -> int:
        """As often as a person would: once more, and once from the beginning where there is nothing to go on from."""
        status = int(ExitCode.FINISHED)
        if _is_done(workshop):  # `--continue` says so; `lorasmith report` makes again what can be made
            return in_child(lambda: _tidied(workshop))
        for _ in range(3):
            if _is_done(workshop):
                return status
            status = in_child(lambda: self._follow(lambda: self.again(workshop)))
            if status not in (ExitCode.FINISHED, ExitCode.NO_STATE):
                return status
        return status

    def points(self, workshop: Workshop, trace: Path) -> list[tuple[str, int]]:
        """Each point that an undisturbed start comes past, with its occurrence, in order."""

        def traced() -> int:
            seen: list[str] = []
            faults._chosen = "trace"
            faults._at = seen.append
            status = self._follow(lambda: self.start(workshop))
            trace.write_text(json.dumps(seen))
            return status

        assert in_child(traced) == ExitCode.FINISHED
        names = json.loads(trace.read_text())
        return [(name, names[: number + 1].count(name)) for number, name in enumerate(names)]

    def _follow(self, start: Callable[[], Start | None]) -> int:
        """As `ui.watching` does, without a screen."""
        supervisor_module.POLL_SECONDS = 0.001
        with _other_disk() if self.is_other_disk else _one_disk():
            found = start()
            if found is None:
                return int(ExitCode.FINISHED)
            supervisor = Supervisor(found, launch=InProcess)
            projections = projections_of(found.run)
            try:
                for event in supervisor.events():
                    if event is not None:
                        projections.project(event)
            finally:
                projections.close()
            return int(supervisor.exit_code)


def _prepare_new(workshop: Workshop, values: Values = OLD) -> None:
    """An old run, and with it a cache of all that is needed."""
    assert workshop.new(2, values).exit_code == ExitCode.FINISHED


def _start_new(workshop: Workshop, values: Values = NEW) -> Start:
    return workshop.start_new(TARGET, values)


def _new_again(workshop: Workshop, values: Values = NEW) -> Start | None:
    """`--continue`; `--new` where that has nothing to go on from, or would go on with the old run."""
    if not _is_old(workshop):
        try:
            return _continued(workshop, None)
        except NoStateError:
            pass
    return _start_new(workshop, values)


def _prepare_continued(workshop: Workshop) -> None:
    """Its newest state is damaged, and the tail of its ledger is torn."""
    assert workshop.new(DONE_BEFORE, BEFORE).exit_code == ExitCode.FINISHED
    optimizer = workshop.state_folder() / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    with workshop.run.ledger.open("ab") as ledger:
        ledger.write(b'{"event": "StepCompl')


def _start_continued(workshop: Workshop) -> Start:
    return _continued(workshop, TARGET - DONE_BEFORE)


def _continued_again(workshop: Workshop) -> Start | None:
    """What is owed where the run knows its new target, else what was typed before."""
    owed = progress_of(workshop.run).stop_at == TARGET
    return _continued(workshop, None if owed else TARGET - progress_of(workshop.run).done)


def _continued(workshop: Workshop, count: int | None) -> Start:
    values: Values = {("cadence", "keep_states"): 2, ("cadence", "save_every"): SAVE_EVERY}
    request = Request(steps=count, output=workshop.output)
    return continued_run(workshop.run, values, request, from_state="", here=workshop.folder)


SCENES = (
    Scene("new", _prepare_new, _start_new, _new_again),
    Scene("continued", _prepare_continued, _start_continued, _continued_again),
    Scene("other_disk", _prepare_new, _start_new, _new_again, is_other_disk=True),
    Scene(
        LOOKED_AT,
        partial(_prepare_new, values={**OLD, **EVALUATED}),
        partial(_start_new, values=WATCHED),
        partial(_new_again, values=WATCHED),
    ),
    Scene("cold", lambda workshop: None, _start_new, _new_again, is_cold=True),
)


def copy_of(template: Workshop, folder: Path) -> Workshop:
    """The same folder once more; links to pictures and cache stay links."""
    shutil.copytree(template.folder, folder, symlinks=True)
    return Workshop(folder, template.base_model, pytest.MonkeyPatch())


def files_of(workshop: Workshop) -> set[str]:
    """SHA-256 of every file that belongs to the run, wherever in the folder it lies."""
    found = set()
    for path in (workshop.run.root, workshop.run.backup, workshop.run.staging):
        for file in path.rglob("*"):
            if file.is_file():
                found.add(hashlib.sha256(file.read_bytes()).hexdigest())
    return found


def result_of(workshop: Workshop) -> Result:
    done = steps(workshop.events())
    return Result(
        step=workshop.train_state()["step"],
        digest=workshop.digest(),
        optimizer_steps=frozenset(workshop.optimizer_steps()),
        export=digest(safetensors.torch.load_file(workshop.run.export("last"))),
        losses=workshop.losses(),
        examples=[sorted(one.example_ids) for one in done],
    )


def check_states(workshop: Workshop, *, damaged: Path | None) -> None:
    """Right after a fault: no state is half there, and no more than one save interval is lost."""
    states, unreadable = find_states(workshop.run.root)
    assert unreadable == []
    assert [one.path for one in states if damage_of(one) is not None and one.path != damaged] == []
    if (workshop.run.staging / PLAN).exists():
        return  # between an old run, all of which is there, and a new one that has no state yet
    events = surviving(read_events(workshop.run.ledger))
    newest, _ = newest_good(workshop.run.root)
    recorded = [one.step for one in events if isinstance(one, CheckpointSaved)]
    if damaged is not None and _target(workshop) != TARGET:
        recorded = [one for one in recorded if one < DONE_BEFORE]  # the damaged one has not been cancelled yet
    if not recorded:
        assert newest is None or newest.step == 0
        return
    assert newest is not None
    next_one = min(TARGET, recorded[-1] - recorded[-1] % SAVE_EVERY + SAVE_EVERY)
    assert newest.step in (recorded[-1], next_one), "neither the old one nor the new one"
    told = max((one.step for one in events if isinstance(one, StepCompleted)), default=newest.step)
    assert told - newest.step <= SAVE_EVERY, "more than one save interval is lost"


def check_nothing_is_left_over(workshop: Workshop) -> None:
    run = workshop.run
    assert [one for one in (run.lock, run.worker_lock, run.staging, run.stop_request) if one.exists()] == []
    places = (run.root, run.backup, run.training_logs)
    assert [path for place in places for path in place.rglob(".*.tmp")] == []
    rows = run.loss_log.read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, TARGET + 1))


def _is_done(workshop: Workshop) -> bool:
    """Whether `--continue` would say that nothing is owed, of the run that was asked for."""
    if _is_old(workshop):
        return False
    try:
        now = progress_of(workshop.run)
        if now.stop_at != TARGET:
            return False
        _continued(workshop, None)
    except NoStateError:
        return False
    except ConfigError as error:
        assert error.code == NOTHING_OWED
        return True
    return False


def _tidied(workshop: Workshop) -> int:
    """What the next start does first, whatever it is for, and the files that follow the ledger."""
    with FolderLock(workshop.run.lock), FolderLock(workshop.run.worker_lock):
        clear_staging(workshop.run)
        remove_unfinished(workshop.run)
        return len(projections_of(workshop.run).rewrite())


def _target(workshop: Workshop) -> int:
    return [one.stop_at for one in read_events(workshop.run.ledger) if isinstance(one, RunStarted)][-1]


def _is_old(workshop: Workshop) -> bool:
    started = [one for one in read_events(workshop.run.ledger) if isinstance(one, RunStarted)]
    return bool(started) and started[-1].settings["seed"] == OLD["", "seed"]


@contextmanager
def _one_disk() -> Iterator[None]:
    yield


@contextmanager
def _other_disk() -> Iterator[None]:
    """No rename between a run and its backup, as the system has it between two disks."""
    rename = Path.rename

    def refusing(self: Path, target: Any) -> Path:
        if any(part.endswith("_backup") for part in Path(target).parts) != any(
            part.endswith("_backup") for part in self.parts
        ):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self))
        return rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", refusing)
        yield
