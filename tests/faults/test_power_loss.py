"""A cut of power at every moment of a real run: what was saved last is there, whole, whatever the disk lost.

The changes of a real run are recorded (save, prune, step exports, the backup of the old export, a second start), and
every disk that the rules of `power_loss` allow is read by the real readers.
"""

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ExitCode, NoStateError
from lorasmith.evaluation.best import BestKeeper, best_of
from lorasmith.runs.events import Event
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events, steps, surviving
from lorasmith.runs.states import MANIFEST, OWN_FILES, SavedState, has_sha256, manifest_bytes, newest_good
from lorasmith.runtime.progress import progress_of
from lorasmith.session.checkpoint import load_state
from lorasmith.session.outputs import Outputs
from tests.end_to_end.workshop import Values, Workshop, digest, load, stage
from tests.faults.looked_at import EVALUATED, know_losses
from tests.faults.power_loss import Laid, Moment, Tree, moments
from tests.faults.watched_files import Change, Record, watched

pytestmark = pytest.mark.timeout(2400)  # thousands of disks, perhaps on a busy machine
SEED = 1
FEW = 4  # orders of one moment: all of what was pending is lost, or none, or some
MOST = 1_000_000  # orders of one moment: there is none with so many
RUNS = int(os.environ.get("FAULT_RUNS", "200"))
SOME_ORDERS = 400
SMALL: dict[tuple[str, str], Any] = {
    ("cadence", "save_every"): 1,
    ("cadence", "keep_states"): 2,
    ("adapter", "rank"): 1,
}


@dataclass
class Known:
    """What was on the disk when a save or an export had come back."""

    states: dict[int, dict[str, bytes]] = field(default_factory=dict)
    exports: dict[str, set[bytes]] = field(default_factory=dict)
    record: Record | None = None

    def saved_before(self, moment: Moment) -> int | None:
        assert self.record is not None
        found = _saved(self.record.changes[: moment.number + 1])
        return found[-1] if found else None

    def saved_next(self, moment: Moment) -> int | None:
        assert self.record is not None
        found = _saved(self.record.changes[moment.number + 1 :])
        return found[0] if found else None

    def exported_before(self, moment: Moment) -> set[str]:
        assert self.record is not None
        marks = [one.name.split() for one in self.record.changes[: moment.number + 1] if one.kind == "mark"]
        return {words[1] for words in marks if words[0] == "exported"}


def _saved(changes: Sequence[Change]) -> list[int]:
    """Steps whose saves have come back."""
    return [int(one.name.split()[1]) for one in changes if one.kind == "mark" and one.name.startswith("saved")]


@contextmanager
def marking(known: Known, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Marks each save and each export that has come back, and each choice of the best."""
    save, export, consider = Outputs.save, Outputs.export, BestKeeper.consider

    def saved(self: Outputs, state: Any) -> None:
        is_new = state.step != self.saved_step
        save(self, state)
        if is_new:
            good, _ = newest_good(self.loaded.run.root)
            assert good is not None and good.step == state.step and known.record is not None
            known.states[state.step] = {one.name: one.read_bytes() for one in good.path.iterdir()}
            known.record.mark(f"saved {state.step}")

    def exported(self: Outputs, state: Any, path: Path) -> None:
        known.exports.setdefault(path.name, set())
        export(self, state, path)
        known.exports[path.name].add(path.read_bytes())
        assert known.record is not None
        known.record.mark(f"exported {path.name}")

    def considered(self: BestKeeper, *given: Any) -> list[Event]:
        path = self.run.export("last-best")
        chosen = consider(self, *given)
        if path.exists():
            known.exports.setdefault(path.name, set()).add(path.read_bytes())
            assert known.record is not None
            known.record.mark(f"exported {path.name}")
        return chosen

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "save", saved)
        patch.setattr(Outputs, "export", exported)
        patch.setattr(BestKeeper, "consider", considered)
        yield


@pytest.fixture
def laid() -> Iterator[Laid]:
    """In memory where there is such a place: thousands of disks are laid out."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Laid(Path(folder))


def record_of(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, values: Values) -> Known:
    """A new run of three steps, and one more step at a second start."""
    known = Known()
    workshop.new(1, values)  # the cache
    workshop.output = "lora_output_2"
    with watched(workshop.folder) as record:
        known.record = record
        with marking(known, monkeypatch):
            assert workshop.new(3, values).exit_code == ExitCode.FINISHED
            assert workshop.go_on(1).exit_code == ExitCode.FINISHED
        assert record.differs_from_disk() == [], "something was written past the watcher"
    assert sorted(known.states) == [0, 1, 2, 3, 4]
    return known


@pytest.fixture
def recorded(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Known:
    return record_of(workshop, monkeypatch, SMALL)


@dataclass
class Judge:
    """Reads a disk as the next start does, and says what is wrong with it."""

    known: Known
    laid: Laid
    output: str
    is_whole_run: bool = True  # with settings, ledger and exports
    _read: dict[Tree, tuple[int | None, list[str]]] = field(default_factory=dict)

    def faults(self, moment: Moment, tree: Tree) -> list[str]:
        """Of this disk at this moment."""
        if tree not in self._read:
            self._read[tree] = self._looked_at(self.laid.out(tree))
        step, found = self._read[tree]
        before, following = self.known.saved_before(moment), self.known.saved_next(moment)
        faults = list(found) if before is not None else [one for one in found if one.startswith("garbage")]
        if step not in (before, following) and not (before is None and step is None):
            faults.append("nothing" if step is None else f"lost {before}, found {step}")
        paths = {path for path, _ in tree}
        for name in self.known.exported_before(moment):
            if f"{self.output}/{name}" not in paths:
                faults.append(f"no export {name}")
        return faults

    @property
    def looked_at(self) -> int:
        return len(self._read)

    def _looked_at(self, disk: Path) -> tuple[int | None, list[str]]:
        run = RunFolder(disk / self.output)
        found = []
        try:
            state = progress_of(run).state
        except NoStateError:
            return None, []
        if not self.is_whole_run:
            return state.step, []
        if newest_good(run.root)[1]:
            found.append("damaged")
        if {one.name: one.read_bytes() for one in state.path.iterdir()} != self.known.states.get(state.step):
            found.append("garbage in a state")
        events = surviving(read_events(run.ledger))
        told = {one.step for one in steps(events)}
        if told < set(range(1, state.step + 1)):
            found.append("steps without a line")
        best = best_of(events)
        if best is not None and not any(has_sha256(path, best.sha256) for path in run.root.glob("*.safetensors")):
            found.append("no file of the best step")
        if not run.config.exists():
            found.append("no settings")
        for path in [*run.root.glob("*.safetensors"), *run.backup.glob("*.safetensors")]:
            name = f"{path.name.partition('_backup_')[0]}.safetensors" if run.backup == path.parent else path.name
            if path.read_bytes() not in self.known.exports.get(name, set()):
                found.append(f"garbage in an export: {path.name}")
        return state.step, found


@dataclass
class Tally:
    """What was looked at, and what was wrong."""

    moments: int = 0
    exhaustive: int = 0
    disks: int = 0
    bad: int = 0
    faults: Counter[str] = field(default_factory=Counter)


def judged(known: Known, judge: Judge, *, most: int, unheard: Sequence[str] = ()) -> Tally:
    assert known.record is not None
    tally = Tally()
    for moment in moments(known.record, most=most, seed=SEED, unheard=unheard):
        tally.moments += 1
        tally.exhaustive += moment.is_exhaustive
        for tree in moment.trees:
            tally.disks += 1
            found = judge.faults(moment, tree)
            tally.bad += bool(found)
            tally.faults.update({f"{one} (after {moment.after or 'the start'})" for one in found})
    return tally


def told(what: str, tally: Tally, judge: Judge) -> None:
    lines = [
        f"\n{what}: {tally.moments} moments, {tally.exhaustive} of them exhaustively; {tally.disks} disks of moments, "
        f"{judge.looked_at} different ones; {tally.bad} bad (seed {SEED})",
        *(f"  {count:6} {fault}" for fault, count in tally.faults.most_common(12)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


@pytest.mark.parametrize("most", [FEW, pytest.param(MOST, marks=pytest.mark.ci)], ids=["some", "all"])
def test_what_was_saved_last_is_there(recorded: Known, laid: Laid, workshop: Workshop, most: int) -> None:
    judge = Judge(recorded, laid, workshop.output)
    tally = judged(recorded, judge, most=most)
    told("the writer as it is", tally, judge)
    assert tally.bad == 0
    assert most < MOST or tally.exhaustive == tally.moments


@pytest.mark.parametrize(
    "most",
    [
        pytest.param(SOME_ORDERS, marks=pytest.mark.ci),
        *(pytest.param(one, marks=pytest.mark.long) for one in (25 * RUNS,) if one > SOME_ORDERS),
    ],
)
def test_what_was_looked_at_is_there(
    workshop: Workshop, laid: Laid, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The LoRA of the best step too: under its name, or to be copied again from its step's."""
    know_losses(monkeypatch, {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.2})
    known = record_of(workshop, monkeypatch, {**SMALL, **EVALUATED, ("evaluation", "every"): 1})
    assert known.exports["last-best.safetensors"]
    judge = Judge(known, laid, workshop.output)
    tally = judged(known, judge, most=most)
    told("the same, looked at", tally, judge)
    assert tally.bad == 0
    assert tally.exhaustive > tally.moments / 4


@pytest.mark.ci
@pytest.mark.parametrize("unheard", [("files",), ("folders",)], ids="+".join)
def test_the_same_writer_without_waiting_for_the_disk_is_caught(
    recorded: Known, laid: Laid, workshop: Workshop, unheard: tuple[str, ...]
) -> None:
    """So the test above can fail: each kind of sync is needed."""
    judge = Judge(recorded, laid, workshop.output)
    tally = judged(recorded, judge, most=16, unheard=unheard)
    told(f"without syncing {' and '.join(unheard)}", tally, judge)
    assert tally.bad > 100
    kinds = {fault.split(" ")[0] for fault in tally.faults}
    assert "nothing" in kinds or "lost" in kinds


@pytest.mark.ci
@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "renamed"])
def test_naive_writers_are_caught(tmp_path: Path, laid: Laid, in_place: bool) -> None:
    """Over what is there, or under another name with the old one removed; neither waits for the disk."""
    known = Known()
    root = made(tmp_path / "naive") / "run"
    root.mkdir()
    with watched(root.parent) as record:
        known.record = record
        for step in (1, 2, 3):
            known.states[step] = naive(root, step, in_place=in_place)
            record.mark(f"saved {step}")
    judge = Judge(known, laid, "run", is_whole_run=False)
    tally = judged(known, judge, most=2000)
    told(f"a naive writer, {'in place' if in_place else 'that renames'}", tally, judge)
    assert tally.bad > 50
    assert any(fault.startswith("nothing") for fault in tally.faults)


def naive(root: Path, step: int, *, in_place: bool) -> dict[str, bytes]:
    """Saves as most programs do."""
    folder = root / "state" if in_place else root / f".state_{step}.tmp"
    folder.mkdir(exist_ok=True)
    files = {name: f"{name} of step {step} ".encode() * 20 for name in OWN_FILES}
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content)
    manifest = folder / MANIFEST
    manifest.unlink(missing_ok=True)
    content = manifest_bytes(folder, step=step, identity="i")
    with manifest.open("wb") as file:
        file.write(content)
    if not in_place:
        folder.rename(root / f"state_{step}")
        if (root / f"state_{step - 1}").exists():
            shutil.rmtree(root / f"state_{step - 1}")
    return {**files, MANIFEST: content}


@pytest.mark.ci
def test_each_of_the_states_can_be_trained_on(recorded: Known, workshop: Workshop, tmp_path: Path) -> None:
    """The bytes that were found again are what loading takes: each into a run of the same settings."""
    stage(workshop.start_new(9, SMALL))
    state = load(workshop.run, stop_at=9).state
    digests = set()
    for step, files in recorded.states.items():
        folder = made(tmp_path / f"state_{step}")
        for name, content in files.items():
            (folder / name).write_bytes(content)
        load_state(SavedState(folder, step, ""), state)
        assert state.step == step
        digests.add(digest(state.adapter.tensors()))
    assert len(digests) == len(recorded.states)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
