"""A disk that is full: training goes on, nothing that is saved is lost, and the user is told. (A real one:
tests/faults/test_real_disks.py.)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ExitCode, TrainerError
from lorasmith.messages import LANGUAGES
from lorasmith.runs import ledger as ledger_module
from lorasmith.runs.events import CheckpointSaved, Event, GivenUp, RunStopped, StepCompleted, Warned
from lorasmith.runs.ledger import read_events
from lorasmith.runs.process_files import read_heartbeat, request_stop
from lorasmith.runs.states import newest_good
from lorasmith.ui.translator import Translator
from tests.end_to_end.workshop import Workshop, tree
from tests.faults.full_disk import Clock, SmallDisk, small_disk

MakeWorkshop = Callable[[str], Workshop]
EVERY_TWO: dict[tuple[str, str], Any] = {("cadence", "save_every"): 2, ("cadence", "keep_states"): 2}
STEPS = 10
BOTH_DISKS = pytest.mark.parametrize(
    "takes_lines", [False, pytest.param(True, marks=pytest.mark.ci)], ids=["not a line", "lines"]
)


def nothing(step: int) -> None:
    """What most steps bring."""


def warned(events: list[Event]) -> list[str]:
    return [f"{one.code} {one.fields['step']}" for one in events if isinstance(one, Warned)]


def is_told(events: list[Event]) -> bool:
    """Each warning has a sentence of its own in each language."""
    for one in events:
        if isinstance(one, Warned):
            texts = {"".join(Translator(language).warning(one.code, one.fields)) for language in LANGUAGES}
            assert len(texts) == len(LANGUAGES) and not any(text.startswith(one.code) for text in texts)
    return True


@BOTH_DISKS
def test_filled_and_freed_in_the_course_of_a_run(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, takes_lines: bool
) -> None:
    """Full from step 3 to step 7. Steps are exact, bytes those of a run that always had room, and no line is lost."""
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("full")
    undisturbed.new(STEPS, EVERY_TWO)
    disk, seen = SmallDisk(takes_lines=takes_lines), []

    def at_step(step: int) -> None:
        disk.is_full = 3 <= step <= 7
        good, damaged = newest_good(workshop.run.root)
        beat = read_heartbeat(workshop.run.heartbeat)
        assert good is not None and beat is not None
        seen.append((step, good.step, beat.waiting > 0))
        assert damaged == [] and list(workshop.run.root.glob(".*.tmp")) == []

    with small_disk(workshop, disk, Clock(), monkeypatch, at_step):
        outcome = workshop.new(STEPS, EVERY_TWO)
    assert outcome.exit_code == ExitCode.FINISHED
    assert [event.step for event in outcome.of(StepCompleted)] == list(range(1, STEPS + 1))
    assert workshop.digest() == undisturbed.digest()
    assert workshop.losses() == undisturbed.losses()
    assert workshop.run.export("last").read_bytes()[-1000:] == undisturbed.run.export("last").read_bytes()[-1000:]
    assert [good for _, good, _ in seen] == [0, 0, 2, 2, 2, 2, 2, 2, 8, 8]
    # The beat of step k is read at step k + 1.
    assert [step - 1 for step, _, waits in seen if waits] == ([] if takes_lines else [3, 4, 5, 6, 7])
    assert [event.step for event in outcome.of(CheckpointSaved)] == [0, 2, 8, STEPS]
    said = ["save_waits 4", "export_left_out 4", "export_left_out 6", "room_again 8"]
    assert warned(outcome.events) == said and is_told(outcome.events)
    assert len(disk.refused) >= 4
    exports = {one.name for one in workshop.run.root.glob("last-step*")}
    assert exports == {f"last-step{step:08d}.safetensors" for step in (2, 8, 10)}


def test_a_save_is_tried_again_every_ten_seconds(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of 4 s, saves every 5 steps; full from the first of these on, room again from step 11 on."""
    disk, clock = SmallDisk(takes_lines=True), Clock()
    tried: list[tuple[int, int]] = []

    def at_step(step: int) -> None:
        clock.now += 4
        if disk.refused:
            tried.append((step - 1, len(disk.refused)))
            disk.refused.clear()
        disk.is_full = 5 <= step <= 10

    with small_disk(workshop, disk, clock, monkeypatch, at_step):
        outcome = workshop.new(16, {("cadence", "save_every"): 5})
    # Due at steps 5 and 10; 8 and 13 are the first after which 10 s have passed since.
    assert [step for step, _ in tried] == [5, 8, 10]
    assert [event.step for event in outcome.of(CheckpointSaved)] == [0, 13, 15, 16]


@pytest.mark.parametrize("freed_after", [pytest.param(45, marks=pytest.mark.ci), 595])
def test_at_the_end_room_is_waited_for(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, freed_after: int
) -> None:
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("full")
    undisturbed.new(5, EVERY_TWO)
    disk, clock = SmallDisk(), Clock()
    beats = set()

    def slept(seconds: float) -> None:
        beat = read_heartbeat(workshop.run.heartbeat)
        assert beat is not None and beat.phase == "saving" and beat.step == 5
        beats.add(beat.beat)
        disk.is_full = seconds < freed_after

    clock.at = slept
    with small_disk(workshop, disk, clock, monkeypatch, lambda step: setattr(disk, "is_full", step >= 3)):
        outcome = workshop.new(5, EVERY_TWO)
    assert outcome.exit_code == ExitCode.FINISHED
    assert sum(clock.slept) == -(-freed_after // 10) * 10
    assert len(beats) == len(clock.slept), "a sign of life each second"
    assert workshop.digest() == undisturbed.digest()
    assert workshop.losses() == undisturbed.losses()
    assert warned(outcome.events)[-2:] == ["end_waits 5", "room_again 5"]
    assert is_told(outcome.events)


@pytest.mark.ci
def test_at_the_end_it_gives_up_after_ten_minutes(make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 6, the newest good state named; when there is room, --continue ends with the bytes of a run that had it."""
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("full")
    undisturbed.new(5, EVERY_TWO)
    disk, clock = SmallDisk(takes_lines=True), Clock()
    with small_disk(workshop, disk, clock, monkeypatch, lambda step: setattr(disk, "is_full", step >= 3)):
        outcome = workshop.new(5, EVERY_TWO)
        assert list(workshop.run.root.glob(".*.tmp")) == []
    assert outcome.exit_code == ExitCode.NO_RESOURCE
    assert sum(clock.slept) == 600
    tried_at_the_end = disk.refused[-61:]
    assert all(name == "adapter.safetensors" for name in tried_at_the_end)
    good, damaged = newest_good(workshop.run.root)
    assert good is not None and good.step == 2 and damaged == []
    (stopped,) = outcome.of(RunStopped)
    assert stopped.code == "disk_stayed_full"
    assert (stopped.fields["state"], stopped.fields["saved"], stopped.fields["step"]) == (good.path.name, 2, 5)
    for language in LANGUAGES:
        assert good.path.name in Translator(language).error(stopped.code, stopped.fields)[0]
    assert workshop.go_on(None).exit_code == ExitCode.FINISHED
    assert workshop.digest() == undisturbed.digest()
    assert workshop.losses() == undisturbed.losses()


def test_on_a_disk_that_takes_no_last_word_the_supervisor_has_it(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("full")
    undisturbed.new(5, EVERY_TWO)
    disk = SmallDisk()
    with small_disk(workshop, disk, Clock(), monkeypatch, lambda step: setattr(disk, "is_full", step >= 3)):
        outcome = workshop.new(5, EVERY_TWO)
    assert outcome.exit_code == ExitCode.NO_RESOURCE
    assert outcome.of(RunStopped) == []
    assert [(one.code, one.exit_code) for one in outcome.of(GivenUp)] == [("disk_full", ExitCode.NO_RESOURCE)]
    assert [one.step for one in read_events(workshop.run.ledger) if isinstance(one, StepCompleted)] == [1, 2]
    assert workshop.go_on(None).exit_code == ExitCode.FINISHED
    assert workshop.digest() == undisturbed.digest()
    assert workshop.losses() == undisturbed.losses()


def test_a_stop_request_ends_the_waiting(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, clock = SmallDisk(takes_lines=True), Clock()

    def slept(seconds: float) -> None:
        if seconds == 25:
            disk.is_full = False
            request_stop(workshop.run, 1)
            disk.is_full = True

    clock.at = slept
    with small_disk(workshop, disk, clock, monkeypatch, lambda step: setattr(disk, "is_full", step >= 3)):
        outcome = workshop.new(5, EVERY_TWO)
    assert outcome.exit_code == ExitCode.NO_RESOURCE
    assert sum(clock.slept) == 25
    assert outcome.of(RunStopped)[0].code == "disk_stayed_full"


@BOTH_DISKS
def test_a_stop_on_a_full_disk_is_tried_once(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, takes_lines: bool
) -> None:
    """What was asked for cannot be had: exit 6 says so, not 5, and at once."""
    disk, clock = SmallDisk(takes_lines=takes_lines), Clock()

    def at_step(step: int) -> None:
        if step == 3:
            request_stop(workshop.run, 1)
            disk.is_full = True

    with small_disk(workshop, disk, clock, monkeypatch, at_step):
        outcome = workshop.new(5, EVERY_TWO)
    assert (outcome.exit_code, clock.slept) == (ExitCode.NO_RESOURCE, [])
    disk.is_full = False
    assert workshop.go_on(None).exit_code == ExitCode.FINISHED


@pytest.mark.ci
def test_what_waits_in_memory_is_bounded(make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many lines waiting training itself waits, as at the end, and then goes on."""
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("full")
    undisturbed.new(9, EVERY_TWO)
    monkeypatch.setattr(ledger_module, "MAX_WAITING", 4)
    disk, clock = SmallDisk(), Clock()
    clock.at = lambda seconds: setattr(disk, "is_full", seconds < 30)
    steps_at: list[tuple[int, float]] = []

    def at_step(step: int) -> None:
        steps_at.append((step, sum(clock.slept)))
        if step == 3:
            disk.is_full = True

    with small_disk(workshop, disk, clock, monkeypatch, at_step):
        outcome = workshop.new(9, EVERY_TWO)
    assert outcome.exit_code == ExitCode.FINISHED
    assert [seconds for _, seconds in steps_at] == [0, 0, 0, 0, 30, 30, 30, 30, 30]
    assert workshop.losses() == undisturbed.losses()
    assert workshop.digest() == undisturbed.digest()


@pytest.mark.ci
def test_full_at_the_start_changes_nothing(make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full after any number of writes: exit 2 with the same tree, up to where the run has taken its place."""
    workshop = make_workshop("full")
    workshop.new(2, EVERY_TWO)
    for start in (lambda: workshop.new(2, EVERY_TWO), lambda: workshop.go_on(2)):
        codes = []
        for number in range(40):
            before = tree(workshop.folder)
            code = started(workshop, start, number, monkeypatch)
            codes.append(code)
            if code != ExitCode.BAD_INPUT:
                break
            assert tree(workshop.folder) == before, number
        assert codes[:4] == [ExitCode.BAD_INPUT] * 4
        assert codes[-1] == ExitCode.NO_RESOURCE, "later it is 6"
        workshop.new(2, EVERY_TWO)


def started(workshop: Workshop, start: Callable[[], Any], writes: int, monkeypatch: pytest.MonkeyPatch) -> ExitCode:
    """How a start ends on a disk that takes so many writes more."""
    disk = SmallDisk()
    left = [writes]

    def refuse(kind: str, path: str) -> None:
        if kind == "write" and not path.endswith("heartbeat"):
            disk.is_full = left[0] <= 0
            left[0] -= 1
        SmallDisk.refuse(disk, kind, path)

    monkeypatch.setattr(disk, "refuse", refuse)
    with small_disk(workshop, disk, Clock(), monkeypatch, nothing):
        try:
            return ExitCode(start().exit_code)
        except TrainerError as error:  # as it is refused, or the next start's part of a promotion
            return error.exit_code


def test_temporary_files_of_the_user_stay(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SmallDisk(takes_lines=True)
    mine = workshop.run.root / ".mine.tmp"

    def at_step(step: int) -> None:
        mine.touch()
        disk.is_full = step == 2

    with small_disk(workshop, disk, Clock(), monkeypatch, at_step):
        assert workshop.new(4, EVERY_TWO).exit_code == ExitCode.FINISHED
    assert mine.exists()


def test_the_folder_is_what_a_path_is(tmp_path: Path) -> None:
    """The disk of these tests refuses what it should."""
    disk = SmallDisk(is_full=True)
    for name, kind, refused in (("a", "write", True), ("a", "link", False), ("heartbeat", "write", False)):
        try:
            disk.refuse(kind, str(tmp_path / name))
            assert not refused
        except OSError:
            assert refused
