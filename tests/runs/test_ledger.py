import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ResourceError
from lorasmith.runs import ledger as module
from lorasmith.runs.events import (
    AdapterExported,
    CheckpointSaved,
    Event,
    RunStarted,
    RunStopped,
    StepCompleted,
    StepRepeated,
    Warned,
    encode,
)
from lorasmith.runs.ledger import (
    MAX_WAITING,
    DeferredLedger,
    Follower,
    Ledger,
    PatientLedger,
    read_events,
    repair_tail,
    steps,
    surviving,
)

ROOT = Path(__file__).resolve().parents[2]


def started(attempt: int, resumed_from: int | None) -> RunStarted:
    return RunStarted(attempt=attempt, time=0.0, identity="i", resumed_from=resumed_from, stop_at=9, settings={})


def step(number: int, attempt: int = 1) -> StepCompleted:
    return StepCompleted(
        attempt=attempt,
        time=float(number),
        step=number,
        epoch=0,
        loss=1 / number,
        lr={"denoiser": 1e-4},
        grad_norm=1.0,
        example_ids=[number],
        seconds=0.1,
        peak_memory=0,
    )


def written(path: Path, events: list[Event]) -> Path:
    with Ledger(path) as ledger:
        for event in events:
            ledger.append(event)
    return path


# -- the writer ------------------------------------------------------------------------------------


def test_an_event_is_with_the_system_before_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    program = (
        "import os; from pathlib import Path; from tests.runs.test_ledger import step\n"
        "from lorasmith.runs.ledger import Ledger\n"
        f"ledger = Ledger(Path({str(path)!r}))\n"
        "for number in range(1, 51): ledger.append(step(number))\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT)
    assert done.returncode == -9
    assert read_events(path) == [step(number) for number in range(1, 51)]


def test_what_is_there_is_added_to(tmp_path: Path) -> None:
    path = written(tmp_path / "ledger.jsonl", [step(1)])
    written(path, [step(2)])
    assert steps(read_events(path)) == [step(1), step(2)]


def test_sync_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append(step(1))
        assert synced == []
        ledger.sync()
        assert synced == [ledger._file.fileno()]


class FullDisk:
    """Takes so many bytes more and says so only when nothing fits, as write(2) does."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self.room = file, room

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = int(self._file.write(data[: self.room]))
        self.room -= taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1, len(encode(step(2))) - 1])
def test_a_full_disk_is_named_and_leaves_no_torn_line(tmp_path: Path, room: int) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append(step(1))
        disk = FullDisk(ledger._file, room)
        ledger._file = disk
        with pytest.raises(ResourceError) as caught:
            ledger.append(step(2))
        assert (caught.value.code, caught.value.fields) == ("disk_full", {"path": str(path)})
        assert path.read_bytes() == encode(step(1))
        disk.room = 10_000  # somebody made room
        ledger.append(step(3))
    assert path.read_bytes() == encode(step(1)) + encode(step(3))


def test_a_short_write_is_gone_on_with(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:

        class Dribble(FullDisk):
            def write(self, data: memoryview) -> int:
                return int(self._file.write(data[:7]))

        ledger._file = Dribble(ledger._file, 0)
        ledger.append(step(1))
    assert read_events(tmp_path / "ledger.jsonl") == [step(1)]


def test_the_kernel_s_own_short_write_leaves_no_torn_line(tmp_path: Path) -> None:
    """A limit on the size of files makes a write short exactly as a full disk does, and the next one fail."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "ledger.jsonl"
    size = len(encode(step(1)))
    program = (
        "import resource, sys; from pathlib import Path; from tests.runs.test_ledger import step\n"
        "from lorasmith.runs.ledger import Ledger\n"
        f"ledger = Ledger(Path({str(path)!r}))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 20}, {resource.RLIM_INFINITY}))\n"
        "ledger.append(step(1))\n"
        "try: ledger.append(step(2))\n"
        "except OSError: sys.exit(42)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 42, done.stderr
    assert path.read_bytes() == encode(step(1))


# -- torn tails ------------------------------------------------------------------------------------


def test_a_line_torn_anywhere_is_cut_off_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for kept in range(len(encode(step(2)))):
        path.write_bytes(encode(step(1)) + encode(step(2))[:kept])
        written(path, [step(3)])
        assert path.read_bytes() == encode(step(1)) + encode(step(3)), kept


@pytest.mark.parametrize("content", [b"", encode(step(1)), b"no newline at all", b"\0" * 512])
def test_repair_leaves_whole_lines_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    repair_tail(path)
    assert not path.exists()
    path.write_bytes(content)
    repair_tail(path)
    assert path.read_bytes() == (content if content.endswith(b"\n") else b"")


def test_lines_of_zeros_and_unknown_events_hide_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    junk = [b"\0" * 200 + b"\n", b"{}\n", b'{"event": "FromTheFuture", "attempt": 1}\n', b"\n", b"\xff\xfe\n", b"7\n"]
    path.write_bytes(encode(step(1)) + b"".join(junk) + encode(step(2)) + b"\0" * 30)
    assert read_events(path) == [step(1), step(2)]


# -- readers ---------------------------------------------------------------------------------------


def test_no_file_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "nowhere" / "ledger.jsonl") == []


def test_a_follower_gets_each_event_once_and_waits_for_a_line_to_end(tmp_path: Path) -> None:
    path, follower = tmp_path / "ledger.jsonl", Follower()
    assert follower.read(path) == []
    path.write_bytes(encode(step(1)) + encode(step(2))[:20])
    assert follower.read(path) == [step(1)]
    assert follower.read(path) == []
    with path.open("ab") as file:
        file.write(encode(step(2))[20:-1])
    assert follower.read(path) == []
    with path.open("ab") as file:
        file.write(b"\n" + encode(step(3)))
    assert follower.read(path) == [step(2), step(3)]


def test_a_follower_follows_a_folder_that_moves(tmp_path: Path) -> None:
    old, new, follower = tmp_path / "staged", tmp_path / "run", Follower()
    old.mkdir()
    with Ledger(old / "ledger.jsonl") as ledger:
        ledger.append(step(1))
        assert follower.read(old / "ledger.jsonl") == [step(1)]
        old.rename(new)
        assert follower.read(old / "ledger.jsonl") == []
        ledger.append(step(2))
        assert follower.read(new / "ledger.jsonl") == [step(2)]


def test_a_follower_misses_nothing_while_it_is_written(tmp_path: Path) -> None:
    path, follower, seen = tmp_path / "ledger.jsonl", Follower(), []
    expected: list[Event] = [step(number) for number in range(1, 500)]
    writer = threading.Thread(target=written, args=(path, expected))
    writer.start()
    while writer.is_alive():
        seen += follower.read(path)
    writer.join()
    seen += follower.read(path)
    assert seen == expected


# -- what has happened in the end ------------------------------------------------------------------


def test_a_start_from_an_earlier_state_cancels_what_came_after_it() -> None:
    def about(attempt: int, number: int) -> list[Event]:
        at: dict[str, Any] = {"attempt": attempt, "time": 0.0, "step": number}
        return [
            StepRepeated(**at, reason="overflow"),
            step(number, attempt),
            CheckpointSaved(**at, path="p", sha256="s", seconds=0.0),
            AdapterExported(**at, path="p", sha256="s"),
        ]

    warned = Warned(attempt=1, time=0.0, code="x")
    ended = RunStopped(attempt=1, time=0.0, step=3, reason="failed")
    first = [started(1, None), *about(1, 1), *about(1, 2), warned, *about(1, 3), ended]
    second = [started(2, 1), *about(2, 2)]
    kept = [first[0], *about(1, 1), warned, ended]
    assert surviving(first) == first
    assert surviving([*first, *second]) == [*kept, *second]
    # A third attempt cancels what is above its state in both others; the warnings and endings did happen.
    assert surviving([*first, *second, started(3, 1), *about(3, 2)]) == [*kept, second[0], started(3, 1), *about(3, 2)]
    assert surviving([*first, started(2, 3), *about(2, 4)]) == [*first, started(2, 3), *about(2, 4)]


def test_what_an_attempt_says_before_its_own_start_stays() -> None:
    early = StepRepeated(attempt=2, time=0.0, step=5, reason="out_of_memory")
    assert surviving([step(4), early, started(2, 3)]) == [early, started(2, 3)]


def test_a_new_run_cancels_nothing() -> None:
    events = [step(1), step(2), started(2, None)]
    assert surviving(events) == events


def test_the_step_of_the_state_itself_stays() -> None:
    assert surviving([step(1), step(2), started(2, 2)]) == [step(1), step(2), started(2, 2)]
    assert surviving([step(1), step(2), started(2, 0)]) == [started(2, 0)]


def test_the_ledger_needs_no_torch() -> None:
    program = f"import sys, {module.__name__}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT).strip() == b"False"


# -- the writer that waits -------------------------------------------------------------------------


def test_lines_wait_for_room_in_order(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with PatientLedger(path) as ledger:
        ledger.append(step(1))
        disk = FullDisk(ledger._file, 0)
        ledger._file = disk
        for number in range(2, 7):
            ledger.append(step(number))
        assert ledger.waiting == 5
        with pytest.raises(ResourceError):
            ledger.sync()
        assert read_events(path) == [step(1)]
        disk.room = len(encode(step(2))) + 9  # for one line and no more
        ledger.append(step(7))
        assert (ledger.waiting, read_events(path)) == (5, [step(1), step(2)])
        disk.room = 10**6
        ledger.append(step(8))
        assert ledger.waiting == 0
        ledger.sync()
    assert read_events(path) == [step(number) for number in range(1, 9)]


def test_closing_tries_once_more(tmp_path: Path) -> None:
    for room, kept in ((10**6, 2), (0, 1)):
        path = tmp_path / f"{room}.jsonl"
        ledger = PatientLedger(path)
        ledger.append(step(1))
        disk = FullDisk(ledger._file, 0)
        ledger._file = disk
        ledger.append(step(2))
        disk.room = room
        ledger.close()
        ledger.close()
        assert len(read_events(path)) == kept


def test_what_waits_is_bounded_and_small(tmp_path: Path) -> None:
    """The bound is told, and what waits then is some tens of megabytes."""
    tracemalloc.start()
    try:
        with PatientLedger(tmp_path / "ledger.jsonl") as ledger:
            ledger._file = FullDisk(ledger._file, 0)
            before, _ = tracemalloc.get_traced_memory()
            for number in range(1, 1001):
                assert not ledger.holds_no_more
                ledger.append(step(number))
            per_line = (tracemalloc.get_traced_memory()[0] - before) / 1000
            assert per_line * MAX_WAITING < 100e6
            ledger._waiting.extend([step(1)] * (MAX_WAITING - 1000))
            assert ledger.holds_no_more
            ledger._waiting.clear()
    finally:
        tracemalloc.stop()


def test_another_trouble_of_the_disk_is_not_waited_for(tmp_path: Path) -> None:
    class Broken(FullDisk):
        def write(self, data: memoryview) -> int:
            raise OSError(5, "Input/output error")

    with PatientLedger(tmp_path / "ledger.jsonl") as ledger:
        real = ledger._file
        ledger._file = Broken(real, 0)
        with pytest.raises(OSError, match="Input/output"):
            ledger.append(step(1))
        ledger._file = real


# -- DeferredLedger ------------------------------------------------------------------------------


def warned(code: str) -> Warned:
    return Warned(attempt=1, time=0.0, code=code)


def test_a_deferred_ledger_waits_for_the_run(tmp_path: Path) -> None:
    log = DeferredLedger(tmp_path / "supervisor.jsonl")
    assert log.add(warned("a")) == warned("a")
    assert list(tmp_path.iterdir()) == []
    log.write()
    log.add(warned("b"))
    log.write()
    assert read_events(tmp_path / "supervisor.jsonl") == [warned("a"), warned("b")]


def test_a_deferred_ledger_without_events_makes_no_file(tmp_path: Path) -> None:
    DeferredLedger(tmp_path / "supervisor.jsonl").write()
    assert list(tmp_path.iterdir()) == []


def test_a_deferred_ledger_waits_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = DeferredLedger(tmp_path / "supervisor.jsonl")
    log.write()
    append = Ledger.append

    def full(self: Ledger, event: Warned) -> None:
        if event.code != "a":
            raise ResourceError("disk_full", path="x")
        append(self, event)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", full)
        for code in "abc":
            log.add(warned(code))
    assert read_events(tmp_path / "supervisor.jsonl") == [warned("a")]
    log.add(warned("d"))
    assert read_events(tmp_path / "supervisor.jsonl") == [warned(code) for code in "abcd"]
