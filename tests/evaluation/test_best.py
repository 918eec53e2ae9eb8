"""The best step: what is chosen, what is copied, and what earlier starts have left."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import ExportConfig
from lorasmith.errors import ResourceError
from lorasmith.evaluation import best as best_module
from lorasmith.evaluation.best import BestKeeper, best_of, comparable_best
from lorasmith.runs.events import AdapterExported, BestChosen, Evaluated, Event, Warned
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.naming import FileNames


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def evaluated(step: int, loss: float, *, is_held_out: bool = True, **more: Any) -> Evaluated:
    validation = {"loss": loss, "standard_error": 0.1, "examples": 2, "is_held_out": is_held_out}
    return Evaluated(attempt=1, time=0.0, step=step, **{"is_control": False, "validation": validation, **more})


def exported(run: RunFolder, step: int, name: str = "") -> AdapterExported:
    path = run.root / (name or f"last-step{step:08d}.safetensors")
    path.write_bytes(b"lora of step %d" % step)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return AdapterExported(attempt=1, time=0.0, step=step, path=path.name, sha256=sha256)


def keeper(run: RunFolder, best: BestChosen | None = None) -> BestKeeper:
    return BestKeeper(run, 1, FileNames(run, ExportConfig()), best)


def test_the_lowest_so_far_is_kept(run: RunFolder) -> None:
    one = keeper(run)
    chosen = []
    for step, loss in ((10, 0.5), (20, 0.6), (30, 0.4), (40, 0.4)):
        chosen += one.consider(evaluated(step, loss), exported(run, step))
    assert [(each.step, each.loss) for each in chosen if isinstance(each, BestChosen)] == [(10, 0.5), (30, 0.4)]
    assert (run.root / "last-best.safetensors").read_bytes() == b"lora of step 30"
    newest = chosen[-1]
    assert isinstance(newest, BestChosen)
    assert newest.path == "last-best.safetensors"
    assert newest.sha256 == hashlib.sha256(b"lora of step 30").hexdigest()
    assert one.protected == {30}


def test_what_chooses_nothing(run: RunFolder) -> None:
    one = keeper(run)
    here = exported(run, 10)
    assert one.consider(evaluated(10, 0.1, is_held_out=False), here) == []
    assert one.consider(evaluated(10, 0.1, is_control=True), here) == []
    assert one.consider(evaluated(10, 0.1, validation=None), here) == []
    assert one.consider(evaluated(10, 0.1), None) == []
    assert one.consider(evaluated(15, 0.1), here) == []  # no export of its own
    assert one.protected == frozenset()
    assert not (run.root / "last-best.safetensors").exists()


@pytest.mark.parametrize("harm", ["gone", "other"])
def test_an_export_that_is_not_what_it_was_is_not_kept(run: RunFolder, harm: str) -> None:
    one = keeper(run)
    one.consider(evaluated(10, 0.5), exported(run, 10))
    event = exported(run, 20)
    if harm == "gone":
        (run.root / event.path).unlink()
    else:
        (run.root / event.path).write_bytes(b"x")
    (warned,) = one.consider(evaluated(20, 0.1), event)
    assert isinstance(warned, Warned)
    assert (warned.code, warned.fields) == ("best_not_kept", {"step": 20, "path": event.path})
    assert (run.root / "last-best.safetensors").read_bytes() == b"lora of step 10"
    assert one.protected == {10}


def story(run: RunFolder) -> list[Event]:
    one = keeper(run)
    events: list[Event] = []
    for step, loss in ((10, 0.5), (20, 0.4)):
        events += [exported(run, step), evaluated(step, loss, is_control=True), evaluated(step, loss)]
        events += one.consider(evaluated(step, loss), exported(run, step))
    return events


def test_what_earlier_starts_chose(run: RunFolder) -> None:
    events = story(run)
    best = best_of(events)
    assert best is not None
    assert best.step == 20
    assert best_of([]) is None
    assert comparable_best(events, examples=2) == best
    assert comparable_best(events, examples=3) is None  # a loss over other pictures is another measure
    assert comparable_best([], examples=2) is None


def test_a_file_that_went_with_a_cancelled_step_is_made_again(run: RunFolder) -> None:
    events = story(run)
    (run.root / "last-best.safetensors").rename(run.root / "moved")
    left = [one for one in events if one.step <= 10]  # type: ignore[attr-defined]
    one = keeper(run, best_of(left))
    assert one.put_back(left) == []
    assert (run.root / "last-best.safetensors").read_bytes() == b"lora of step 10"
    assert one.put_back(left) == []


def test_of_several_exports_any_that_is_whole_will_do(run: RunFolder) -> None:
    events = story(run)
    (run.root / "last-best.safetensors").unlink()
    overwritten = exported(run, 20, "last.safetensors")
    (run.root / "last.safetensors").write_bytes(b"a later one")
    assert keeper(run, best_of(events)).put_back([overwritten, *events]) == []
    assert (run.root / "last-best.safetensors").read_bytes() == b"lora of step 20"
    for path in run.root.glob("*.safetensors"):
        path.unlink()
    (warned,) = keeper(run, best_of(events)).put_back(events)
    assert isinstance(warned, Warned)


def test_nothing_to_put_back(run: RunFolder) -> None:
    assert keeper(run).put_back(story(run)) == []


def test_without_room_the_best_stays_what_it_was(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on; the file that is there belongs to the step that is told."""
    one = keeper(run)
    one.consider(evaluated(10, 0.5), exported(run, 10))

    def full(path: Path, data: bytes, **_: object) -> Path:
        raise ResourceError("disk_full", path=str(path))

    with monkeypatch.context() as patch:
        patch.setattr(best_module, "write_atomically", full)
        (told,) = one.consider(evaluated(20, 0.4), exported(run, 20))
    assert isinstance(told, Warned) and told.code == "best_without_room" and told.fields["step"] == 20
    assert one.best is not None and one.best.step == 10
    assert (run.root / "last-best.safetensors").read_bytes() == b"lora of step 10"


def test_a_file_of_a_choice_that_was_never_told_is_put_right(run: RunFolder) -> None:
    """The power went between the file and its line."""
    events = story(run)
    (run.root / "last-best.safetensors").write_bytes(b"lora of step 30")
    assert keeper(run, best_of(events)).put_back(events) == []
    assert (run.root / "last-best.safetensors").read_bytes() == b"lora of step 20"


def test_what_was_measured_and_not_looked_at_is_looked_at(run: RunFolder) -> None:
    events = [*story(run), exported(run, 30), evaluated(30, 0.3)]
    one = keeper(run, best_of(events))
    (chosen,) = one.catch_up(events, examples=2)
    assert isinstance(chosen, BestChosen) and chosen.step == 30
    assert (run.root / "last-best.safetensors").read_bytes() == b"lora of step 30"
    assert keeper(run, best_of(events)).catch_up([*events, chosen], examples=2) == []
    assert keeper(run, best_of(events)).catch_up(events, examples=3) == [], "a loss over other pictures"
    assert keeper(run).catch_up([], examples=2) == []


def test_what_was_looked_at_and_not_chosen_stays_so(run: RunFolder) -> None:
    events = [*story(run), exported(run, 30), evaluated(30, 0.45)]
    assert keeper(run, best_of(events)).catch_up(events, examples=2) == []
    gone = exported(run, 40)
    (run.root / gone.path).unlink()
    events += [gone, evaluated(40, 0.1)]
    told = keeper(run, best_of(events)).catch_up(events, examples=2)
    assert [one.code for one in told if isinstance(one, Warned)] == ["best_not_kept"]
    assert keeper(run, best_of(events)).catch_up([*events, *told], examples=2) == [], "said once"


def test_what_is_read_back_must_be_what_was_written(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(path: Path, data: bytes, *, check: Any) -> Path:
        half = path.with_name("half")
        half.write_bytes(data[:3])
        check(half)
        raise AssertionError("taken for whole")

    monkeypatch.setattr(best_module, "write_atomically", torn)
    (told,) = keeper(run).consider(evaluated(10, 0.5), exported(run, 10))
    assert isinstance(told, Warned) and told.code == "best_not_kept"
