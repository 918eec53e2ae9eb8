"""P2, P5, P6 by SIGKILL of worker, supervisor or both at random instants, through the real command line: by default in
processes that are forked, which spares them importing, `-m long` as a person starts them.

Victims and instants come from FAULT_SEED (default 1) and the number of the run, as shares of what an undisturbed start
takes here; FAULT_RUN=N does run N alone. FAULT_RUNS is the number of kills of the long version.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import safetensors.torch

from lorasmith.evaluation.evaluator import OFF
from lorasmith.reports.projections import projections_of
from lorasmith.runs.events import Evaluated, Warned, WorkerEnded, WorkerRestarted
from lorasmith.runs.ledger import read_events, steps
from lorasmith.runs.locks import is_held
from lorasmith.runs.states import newest_good
from lorasmith.runtime import supervisor
from tests.end_to_end.test_command_line import typed
from tests.end_to_end.workshop import Workshop, digest
from tests.faults.forked_program import ForkedProgram
from tests.faults.killed import PATIENCE_SECONDS, VICTIMS, Begin, KilledRun, begin_apart
from tests.faults.looked_at import check_best, know_losses, measured

MakeWorkshop = Callable[[str], Workshop]

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the worker by /proc"),
    pytest.mark.timeout(0),  # each start has its own
]

SEED = int(os.environ.get("FAULT_SEED", "1"))
ONLY = os.environ.get("FAULT_RUN", "")
KILLS = 20
MANY_KILLS = int(os.environ.get("FAULT_RUNS", "200"))
MAX_A_RUN = 10
REPEATS = {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2}  # of the workshop's pictures, by example id
REPEATS_BUT_ONE = {0: 1, 1: 1, 2: 2, 3: 2, 4: 2, 5: 2}  # where one of the first three is held out
OPTIONS = ("--save-every", "3", "--rank", "4", "--dropout", "0.1", "--lr-schedule", "cosine")
NEVER_LOOKED_AT = ("--evaluate-every", "0")
LOOKED_AT = ("--evaluate-every", "3", "--evaluate-examples", "1", "--hold-out", "1")
LOSSES = {3: 0.9, 6: 0.4, 9: 0.5, 12: 0.2, 15: 0.3, 18: 0.6, 20: 0.1}
KILLS_WHILE_LOOKING = 6


@pytest.fixture(autouse=True)
def all_leave_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has told its end may take its time on a busy machine: none is killed but by the test."""
    monkeypatch.setattr(supervisor, "EXIT_SECONDS", 100.0)


@dataclass(frozen=True)
class Manner:
    """How runs are started and killed."""

    epochs: int
    begin: Begin
    often_at: float  # as a share of an undisturbed start: the instant that is drawn most often
    options: tuple[str, ...] = NEVER_LOOKED_AT
    repeats: Mapping[int, int] = field(default_factory=lambda: REPEATS)

    @property
    def steps(self) -> int:
        return self.epochs * sum(self.repeats.values())

    @property
    def new_run(self) -> tuple[str, ...]:
        """What is typed."""
        return ("--new", "--steps", str(self.steps), *OPTIONS, *self.options)


FORKED = Manner(2, ForkedProgram, 0.4)
WATCHED = Manner(2, ForkedProgram, 0.5, LOOKED_AT, REPEATS_BUT_ONE)
# In longer runs, more of which is training and saving. Most of a start of its own is importing and loading, of which
# one moment is like the next: later ones are drawn more often.
APART = Manner(12, begin_apart, 0.8)


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing happened to."""

    manner: Manner
    digest: tuple[str, str]
    export: str
    losses: dict[int, float]
    examples: dict[int, list[int]]
    measured: list[tuple[object, ...]]
    seconds: float


def told(workshop: Workshop) -> dict[int, list[int]]:
    """The examples of each step that stands in the end."""
    return {event.step: event.example_ids for event in steps(workshop.events())}


def export_of(workshop: Workshop) -> str:
    return digest(safetensors.torch.load_file(workshop.run.export("last")))


def run_undisturbed(make_workshop: MakeWorkshop, manner: Manner) -> Undisturbed:
    workshop = make_workshop("undisturbed")
    with (workshop.folder / "output.txt").open("wb") as output:
        began = time.monotonic()
        started = manner.begin(workshop, typed(workshop, *manner.new_run), output)
        assert started.wait(PATIENCE_SECONDS) == 0
        seconds = time.monotonic() - began
    assert not [event for event in read_events(workshop.run.supervisor_log) if isinstance(event, WorkerRestarted)]
    return Undisturbed(
        manner,
        workshop.digest(),
        export_of(workshop),
        workshop.losses(),
        told(workshop),
        seen_of(workshop),
        seconds,
    )


def check(one: KilledRun, undisturbed: Undisturbed) -> None:
    """It finished, with what it would have ended with anyway."""
    workshop = one.workshop
    run, manner = workshop.run, undisturbed.manner
    count = manner.steps
    assert workshop.train_state()["step"] == count
    assert workshop.optimizer_steps() == {count}
    assert workshop.digest() == undisturbed.digest
    assert export_of(workshop) == undisturbed.export
    assert workshop.losses() == undisturbed.losses
    seen = told(workshop)
    assert seen == undisturbed.examples
    assert list(seen) == list(range(1, count + 1)), "each step once, in order"
    planned = {example: manner.epochs * repeats for example, repeats in manner.repeats.items()}
    assert Counter(example for ids in seen.values() for example in ids) == planned
    check_measured(workshop, undisturbed)
    ended = [event.status for event in read_events(run.supervisor_log) if isinstance(event, WorkerEnded)]
    killed = [kill for kill in one.kills if kill.victim != "supervisor"]
    assert set(ended) <= {0, -signal.SIGKILL} and ended.count(-signal.SIGKILL) <= len(killed), "none died by itself"
    if one.was_refused:  # killed when all was done, before it was drawn: `lorasmith report` makes it again, as here
        projections = projections_of(run)
        assert projections.rewrite() == projections.close() == []
    for tag in ("loss/current", "loss/average", "lr"):
        assert workshop.plotted(tag) == list(range(1, count + 1)), "each step once, in TensorBoard too"
    assert [int(row["step"]) for row in workshop.rows()] == list(range(1, count + 1))
    assert newest_good(run.root)[1] == [], "no state is damaged"
    assert not is_held(run.worker_lock) and not is_held(run.lock)


def seen_of(workshop: Workshop) -> list[tuple[object, ...]]:
    """What was measured, in order. The control is the same at whatever step it was taken."""
    found = [measured(event) for event in workshop.events() if isinstance(event, Evaluated)]
    return [(0, *one[1:]) if one[1] else one for one in found]


def check_measured(workshop: Workshop, undisturbed: Undisturbed) -> None:
    """What was looked at shows what it would have shown; a step at which it died twice in a row is left out, and where
    that was in one start nothing more is looked at until the next, which is told."""
    check_best(workshop)
    found = seen_of(workshop)
    assert [one for one in undisturbed.measured if one in found] == found
    if not any(isinstance(event, Warned) and event.code == OFF for event in workshop.events()):
        assert found[-1:] == undisturbed.measured[-1:], "the last step too"


def _with_a_cache_of_its_own(workshop: Workshop) -> None:
    """So that caching is interrupted too: the cache lies beside the pictures."""
    pictures, cache = workshop.folder / "lora_train_set", workshop.folder / ".lorasmith_cache"
    behind = pictures.resolve()
    for link in (pictures, cache):
        link.unlink()
    shutil.copytree(behind, pictures)


def kill_all(make_workshop: MakeWorkshop, manner: Manner, kills: int) -> None:
    """Runs until so many kills have hit; every one of them is checked, and a failure says how it is had again."""
    undisturbed = run_undisturbed(make_workshop, manner)
    began = time.monotonic()
    done: list[KilledRun] = []
    for number in [int(ONLY)] if ONLY else count(1):
        workshop = make_workshop(f"killed{number}")
        _with_a_cache_of_its_own(workshop)
        most = min(MAX_A_RUN, kills - hits_of(done))
        draw = random.Random(f"{SEED}/{number}")
        one = KilledRun(
            workshop,
            manner.new_run,
            draw,
            most,
            within=undisturbed.seconds,
            often_at=manner.often_at,
            begin=manner.begin,
        )
        done.append(one)
        try:
            one.to_the_end()
            check(one, undisturbed)
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            came = ", ".join(map(str, one.kills))
            raise AssertionError(f"FAULT_SEED={SEED} FAULT_RUN={number}: {error} after {came}") from error
        if hits_of(done) >= kills:
            break
    seconds = time.monotonic() - began
    victims = Counter(kill.victim for one in done for kill in one.kills)
    phases = Counter(kill.phase or "no heart" for one in done for kill in one.kills)
    exits = sum((one.exits for one in done), Counter[int]())
    sys.stdout.write(
        f"\n{len(done)} runs of {manner.steps} steps, {hits_of(done)} kills {dict(victims)}, "
        f"while {dict(phases)}, exits {dict(exits)}, "
        f"{seconds:.0f} s (undisturbed {undisturbed.seconds:.1f} s each), FAULT_SEED={SEED}\n"
    )
    assert ONLY or hits_of(done) == kills
    if hits_of(done) >= KILLS:
        assert set(victims) == set(VICTIMS) and {"step", "saving"} & set(phases), "something of everything"
        assert manner.options != LOOKED_AT or "evaluating" in phases


def hits_of(done: Sequence[KilledRun]) -> int:
    return sum(len(one.kills) for one in done)


@pytest.mark.ci
def test_kills(make_workshop: MakeWorkshop) -> None:
    kill_all(make_workshop, FORKED, KILLS)


@pytest.mark.parametrize(
    "kills",
    [pytest.param(KILLS_WHILE_LOOKING, marks=pytest.mark.ci), pytest.param(MANY_KILLS, marks=pytest.mark.long)],
    ids=["some", "many"],
)
def test_kills_of_runs_that_are_looked_at(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    know_losses(monkeypatch, LOSSES)
    kill_all(make_workshop, WATCHED, kills)


@pytest.mark.long
def test_two_hundred_kills(make_workshop: MakeWorkshop) -> None:
    kill_all(make_workshop, APART, MANY_KILLS)
