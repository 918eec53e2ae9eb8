"""Pictures and captions that change or go while a run is made of them: named, or without effect; never half of each."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.data import encode, folder, images
from lorasmith.errors import DatasetError, ExitCode
from lorasmith.runs.events import Evaluated, RunStarted, RunStopped
from tests.data.drawing import put_picture
from tests.end_to_end.workshop import QUIET, Workshop, tree

EVALUATED = {**QUIET, ("evaluation", "every"): 2, ("evaluation", "examples"): 2}


def vanish(path: Path) -> None:
    path.unlink()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def become_another(path: Path) -> None:
    put_picture(path, 64, 64, number=99)


def become_a_pipe(path: Path) -> None:
    import os

    path.unlink()
    os.mkfifo(path)


CHANGES: dict[Callable[[Path], None], str] = {
    vanish: "file_missing",
    grow: "picture_changed",
    shrink: "picture_changed",
    become_another: "picture_changed",
    become_a_pipe: "file_irregular",
}


@pytest.fixture
def own(workshop: Workshop) -> Workshop:
    """With a cache of its own: nothing is cached yet."""
    (workshop.folder / ".lorasmith_cache").unlink()
    return workshop


def pictures(workshop: Workshop) -> list[Path]:
    return sorted((workshop.folder / "lora_train_set").rglob("*.png"))


@pytest.mark.parametrize("change", CHANGES, ids=lambda one: one.__name__)
def test_while_it_is_being_encoded(own: Workshop, change: Callable[[Path], None], monkeypatch: Any) -> None:
    """Looked at, and another by the time it is its turn: nothing is stored under the wrong name, nothing begins."""
    last = pictures(own)[-1]

    def pixels(example: Any) -> Any:
        if example.image == last:
            change(last)
        return images.pixels(example)

    monkeypatch.setattr(encode, "pixels", pixels)
    outcome = own.new(2)
    assert outcome.exit_code == ExitCode.BAD_INPUT
    (stopped,) = outcome.of(RunStopped)
    (row,) = stopped.fields["problems"]
    assert (stopped.code, Path(row["path"]), row["reason"]) == ("dataset_problems", last, CHANGES[change])
    assert not own.run.root.exists() and not own.run.staging.exists()


@pytest.mark.parametrize("change", [vanish, become_another, become_a_pipe], ids=lambda one: one.__name__)
def test_between_the_two_looks_at_the_folder(own: Workshop, change: Callable[[Path], None]) -> None:
    """The parent has looked, the worker has not: what is there when it looks is trained on, or named."""
    start = own.start_new(2)
    count = len(pictures(own))
    change(pictures(own)[-1])
    outcome = own.watch(start)
    if change is become_a_pipe:
        assert outcome.exit_code == ExitCode.BAD_INPUT
        assert outcome.of(RunStopped)[0].code == "dataset_problems"
        return
    assert outcome.exit_code == ExitCode.FINISHED
    (started,) = outcome.of(RunStarted)
    assert len(started.examples) == count - (change is vanish)


def test_while_the_folder_is_being_looked_at(own: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listed, and gone when it is opened; a caption too."""
    first, second = pictures(own)[:2]
    second.with_suffix(".txt").write_text("words")
    real = folder._candidates

    def listed(*given: Any) -> Any:
        found = list(real(*given))
        if any(one.image == first for one in found):
            first.unlink()
            second.with_suffix(".txt").unlink()
        return found

    monkeypatch.setattr(folder, "_candidates", listed)
    before = {name for name in tree(own.folder) if not name.startswith("lora_train_set")}
    with pytest.raises(DatasetError) as caught:
        own.start_new(2)
    found = {(Path(row["path"]).name, row["reason"]) for row in caught.value.fields["problems"]}
    assert found == {(first.name, "file_missing"), (second.with_suffix(".txt").name, "file_missing")}
    assert {name for name in tree(own.folder) if not name.startswith("lora_train_set")} == before


@pytest.mark.ci
def test_all_of_them_go_while_it_trains(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is trained on and what is compared with them was read by then: the bytes and the measures are the same."""
    from lorasmith.engine.execution import EagerExecution

    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("robbed")
    expected = undisturbed.new(3, EVALUATED).of(Evaluated)
    data = workshop.folder / "lora_train_set"
    there = data.resolve()
    data.unlink()
    shutil.copytree(there, data)
    (workshop.folder / ".lorasmith_cache").unlink()
    real = EagerExecution.forward_backward

    def forward_backward(*given: Any) -> Any:
        shutil.rmtree(data, ignore_errors=True)
        return real(*given)

    monkeypatch.setattr(EagerExecution, "forward_backward", forward_backward)
    outcome = workshop.new(3, EVALUATED)
    assert outcome.exit_code == ExitCode.FINISHED
    assert workshop.digest() == undisturbed.digest()
    assert [(one.step, one.visual, one.color) for one in outcome.of(Evaluated)] == [
        (one.step, one.visual, one.color) for one in expected
    ]
