"""Real disks that are small, full or read-only, and many starts at once: real commands, as a person types them.

What needs a mount is `special`; the same without one: tests/faults/test_disk_full.py.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import safetensors.torch

from lorasmith.errors import ExitCode
from lorasmith.runs.events import CheckpointSaved, RunStarted, StepCompleted, Warned, WorkerStarted
from lorasmith.runs.ledger import read_events, steps
from lorasmith.runs.locks import FolderLock
from lorasmith.runs.process_files import read_heartbeat
from lorasmith.runs.states import newest_good
from tests.end_to_end.workshop import Workshop, digest, tree

PROJECT = Path(__file__).parents[2]
PATIENCE_SECONDS = 400.0
STEPS = 240
SETTINGS = ("--rank", "1", "--save-every", "20", "--keep-states", "2", "--evaluate-every", "0")
pytestmark = pytest.mark.timeout(1500)  # each program has its own
DAC_OVERRIDE, DAC_READ_SEARCH, DROP_FROM_BOUND = 1, 2, 24


def typed(workshop: Workshop, *arguments: str) -> list[str]:
    model = ["--base-model", str(workshop.base_model)] if "--new" in arguments else []
    return [sys.executable, str(PROJECT / "train_lora.py"), *arguments, *model, "--lang", "en"]


def run(
    workshop: Workshop, *arguments: str, before: Callable[[], None] | None = None
) -> "subprocess.CompletedProcess[str]":
    command = typed(workshop, *arguments)
    return subprocess.run(
        command, cwd=workshop.folder, capture_output=True, text=True, timeout=PATIENCE_SECONDS, preexec_fn=before
    )


# -- a small disk ----------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A disk of its own at `folder`; the test is skipped where this process may not mount one."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small(make_workshop: Callable[[str], Workshop], tmp_path: Path) -> Iterator[Workshop]:
    """A workshop on a real disk of 12 MB."""
    whole = make_workshop("whole")
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=12m", "tmpfs") as folder:
        for name in ("lora_train_set", ".lorasmith_cache"):
            (folder / name).symlink_to((whole.folder / name).readlink())
        yield Workshop(folder, whole.base_model, whole.monkeypatch)


class Filler:
    """Takes what room there is, but so many bytes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "filler"

    def fill(self, left: int = 0) -> None:
        with self.path.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        if left:
            os.truncate(self.path, max(0, self.path.stat().st_size - left))

    def free(self) -> None:
        self.path.unlink()


class Watched:
    """A command whose words are read while it runs."""

    def __init__(self, workshop: Workshop, *arguments: str) -> None:
        self.run = workshop.run
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            typed(workshop, *arguments),
            cwd=workshop.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def until_step(self, step: int) -> None:
        self.until(lambda: (beat := read_heartbeat(self.run.heartbeat)) is not None and beat.step >= step)

    def until(self, condition: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            assert self.process.poll() is None, "".join(self.process.stdout or [])
            if condition():
                return
            time.sleep(0.005)
        raise AssertionError("it never came")

    def until_said(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError(f"never said {text!r}: {''.join(self.lines)}")

    def end(self) -> int:
        rest, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        self.lines.append(rest)
        return self.process.returncode

    @property
    def said(self) -> str:
        return "".join(self.lines)


@pytest.fixture
def undisturbed(make_workshop: Callable[[str], Workshop]) -> Workshop:
    workshop = make_workshop("undisturbed")
    assert run(workshop, "--new", "--steps", str(STEPS), *SETTINGS).returncode == 0
    return workshop


@pytest.mark.special
def test_a_real_disk_filled_and_freed(small: Workshop, undisturbed: Workshop) -> None:
    filler = Filler(small.folder)
    watched = Watched(small, "--new", "--steps", str(STEPS), *SETTINGS)
    watched.until_step(45)
    filler.fill()
    watched.until_said("The disk is full")  # told at once, not when there is room again
    full_at = read_heartbeat(small.run.heartbeat)
    assert full_at is not None
    good, damaged = newest_good(small.run.root)
    assert good is not None and good.step % 20 == 0 and damaged == []
    watched.until_step(min(full_at.step + 60, STEPS - 30))
    filler.free()
    assert watched.end() == 0, watched.said
    assert [event.step for event in steps(small.events())] == list(range(1, STEPS + 1))
    assert small.losses() == undisturbed.losses()
    assert small.digest() == undisturbed.digest()
    codes = [event.code for event in read_events(small.run.ledger) if isinstance(event, Warned)]
    assert codes.count("save_waits") == codes.count("room_again") == 1
    saved = [event.step for event in small.events() if isinstance(event, CheckpointSaved)]
    assert STEPS in saved and len(saved) < STEPS // 20 + 1
    rows = small.run.loss_log.read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [str(step) for step in range(1, STEPS + 1)]
    assert not list(small.folder.rglob(".*.tmp"))


@pytest.mark.special
def test_a_real_disk_that_stays_full(small: Workshop, undisturbed: Workshop) -> None:
    """At the end it waits, beating, until it is asked to stop; then exit 6. With room again --continue finishes."""
    filler = Filler(small.folder)
    watched = Watched(small, "--new", "--steps", str(STEPS), *SETTINGS)
    watched.until_step(45)
    filler.fill()
    watched.until(lambda: (beat := read_heartbeat(small.run.heartbeat)) is not None and beat.phase == "saving")
    watched.until_step(STEPS)
    first = read_heartbeat(small.run.heartbeat)
    time.sleep(2.5)
    later = read_heartbeat(small.run.heartbeat)
    assert first is not None and later is not None and later.beat > first.beat
    began = time.monotonic()
    os.kill(watched.process.pid, signal.SIGTERM)
    assert watched.end() == ExitCode.NO_RESOURCE, watched.said
    assert time.monotonic() - began < 15
    good, damaged = newest_good(small.run.root)
    assert good is not None and 40 <= good.step < STEPS and damaged == []
    assert good.path.name in watched.said and "disk is full" in watched.said.lower()
    assert not list(small.run.root.glob(".*.tmp"))
    filler.free()
    assert run(small, "--continue").returncode == 0
    assert small.losses() == undisturbed.losses()
    assert small.digest() == undisturbed.digest()


@pytest.mark.special
@pytest.mark.parametrize("pages", [0, 1, 2, 3, 4, 8, 60])
def test_a_real_disk_that_is_full_at_the_start(small: Workshop, pages: int) -> None:
    """With so many pages of 4 KiB left: exit 2, a sentence, and nothing changed; under a run and beside one."""
    assert run(small, "--new", "--steps", "2", *SETTINGS).returncode == 0
    Filler(small.folder).fill(left=pages * 4096)
    before = tree(small.folder)
    for arguments in (
        ("--continue", "--steps", "1"),
        ("--new", "--steps", "1"),
        ("--new", "--steps", "1", "--output", "b"),
    ):
        done = run(small, *arguments)
        assert done.returncode == ExitCode.BAD_INPUT, done.stderr
        assert "disk" in done.stderr and "Traceback" not in done.stderr
        assert tree(small.folder) == before


# -- a folder that cannot be written ---------------------------------------------------------------


def without_the_rights_of_root() -> None:
    """In a child: permissions count for it as for anybody. (Another user could not even read this installation.)"""
    if os.geteuid() == 0:
        library = ctypes.CDLL(None)
        for right in (DAC_OVERRIDE, DAC_READ_SEARCH):
            assert library.prctl(DROP_FROM_BOUND, right, 0, 0, 0) == 0


STARTS_THERE = (
    ("--continue", "--steps", "1"),
    ("--new", "--steps", "1"),
    ("--new", "--steps", "1", "--output", "lora_output/deeper"),
    ("--new", "--steps", "1", "--output", "beside"),
)


def refused(workshop: Workshop, arguments: tuple[str, ...], before: Callable[[], None] | None) -> None:
    held = tree(workshop.folder)
    done = run(workshop, *arguments, before=before)
    assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    assert "Cannot write to the run folder" in done.stderr and "Traceback" not in done.stderr
    assert tree(workshop.folder) == held


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="the rights of root are dropped as Linux has it")
def test_a_folder_without_permission(workshop: Workshop) -> None:
    workshop.new(1)
    closed = [workshop.folder, workshop.run.root]
    try:
        for folder in closed:
            folder.chmod(0o555)
        for arguments in STARTS_THERE:
            refused(workshop, arguments, without_the_rights_of_root)
    finally:
        for folder in closed:
            folder.chmod(0o755)
    assert run(workshop, "--continue", "--steps", "1", before=without_the_rights_of_root).returncode == 0


@pytest.mark.special
def test_a_disk_that_is_mounted_read_only(small: Workshop) -> None:
    assert run(small, "--new", "--steps", "1", *SETTINGS).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small.folder)], check=True)
    for arguments in STARTS_THERE:
        refused(small, arguments, None)


# -- many starts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [pytest.param(8, marks=pytest.mark.ci), pytest.param(50, marks=pytest.mark.long)])
def test_of_many_starts_at_once_one_runs(make_workshop: Callable[[str], Workshop], count: int) -> None:
    """The others end with exit 3, and not a line, state, folder or byte is theirs."""
    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("rushed")
    workshop.new(1)
    command = typed(workshop, "--continue", "--steps", "100000")
    started = [
        subprocess.Popen(command, cwd=workshop.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    try:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while sum(one.poll() is None for one in started) > 1 and time.monotonic() < give_up_at:
            time.sleep(0.05)
        (winner,) = [one for one in started if one.poll() is None]
        while not steps(read_events(workshop.run.ledger))[1:] and time.monotonic() < give_up_at:
            time.sleep(0.05)
        winner.send_signal(signal.SIGINT)
        words = {one: one.communicate(timeout=PATIENCE_SECONDS) for one in started}
    finally:
        for one in started:
            one.kill()
            one.wait()
    assert winner.returncode == ExitCode.STOPPED
    losers = [one for one in started if one is not winner]
    assert [one.returncode for one in losers] == [ExitCode.LOCKED] * (count - 1)
    assert all("Another run is using" in words[one][1] for one in losers)
    events = read_events(workshop.run.ledger)
    assert [event.attempt for event in events if isinstance(event, RunStarted)] == [1, 2]
    (worker,) = [one for one in read_events(workshop.run.supervisor_log) if isinstance(one, WorkerStarted)][1:]
    assert worker.supervisor_pid == winner.pid
    done = [event.step for event in events if isinstance(event, StepCompleted)]
    assert done == list(range(1, len(done) + 1))
    assert {one.name for one in workshop.folder.iterdir()} == {
        "lora_train_set", ".lorasmith_cache", "lora_output", "lora_output_backup", "training_logs",
    }  # fmt: skip
    assert not list(workshop.run.root.glob(".*")) and not workshop.run.lock.exists()
    undisturbed.new(1)
    undisturbed.go_on(len(done) - 1)
    assert workshop.states() == undisturbed.states()
    assert workshop.digest() == undisturbed.digest()
    assert exported(workshop) == exported(undisturbed)


def exported(workshop: Workshop) -> str:
    return digest(safetensors.torch.load_file(workshop.run.export("last")))


@pytest.mark.parametrize("arguments", [("--continue", "--steps", "1"), ("--new", "--steps", "1")], ids=" ".join)
def test_a_start_where_another_run_is_changes_nothing(workshop: Workshop, arguments: tuple[str, ...]) -> None:
    workshop.new(1)
    with FolderLock(workshop.run.lock):
        before = tree(workshop.folder)
        done = run(workshop, *arguments)
        assert done.returncode == ExitCode.LOCKED
        assert tree(workshop.folder) == before
