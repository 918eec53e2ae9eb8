"""The whole program, as it is started, while somebody sets the system's clock: libfaketime stands before the real one.

(tests/end_to_end/test_unlucky_runs.py has the same with a clock that is injected, in every suite.)
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.events import CheckpointSaved, RunStarted, WorkerHung, WorkerRestarted
from lorasmith.runs.ledger import read_events
from tests.end_to_end.workshop import Workshop

PROJECT = Path(__file__).parents[2]
SLEEPING = Path(__file__).parent / "faked"
LIBRARIES = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), *Path("/usr/lib/faketime").glob("libfaketime.so.1")]
pytestmark = [
    pytest.mark.special,
    pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (Debian: apt-get install faketime)"),
]

# As libfaketime reads them: a day and years, back and forward, and before computers counted.
OFFSETS = ("-1d", "+1d", "-3650d", "+3650d", "-20000d", "+0d")
CHANGE_SECONDS = 0.15
STARTS = (("--new", 3), ("--continue", 2), ("--continue", 2))


class Clock:
    """The offset in a file, which each process looks at whenever it asks for the time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.changes = 0
        self.set(0)

    def set(self, number: int) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(OFFSETS[number % len(OFFSETS)] + "\n")
        new.replace(self._file)

    @contextmanager
    def running_wild(self) -> Iterator[None]:
        over = threading.Event()

        def change() -> None:
            while not over.wait(CHANGE_SECONDS):
                self.changes += 1
                self.set(self.changes)

        thread = threading.Thread(target=change)
        thread.start()
        yield
        over.set()
        thread.join()

    def environment(self) -> dict[str, str]:
        faked = {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1"}
        return {
            **os.environ,
            **faked,
            # Nobody sets the clock that only counts: a system whose own goes back is out of order.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": os.pathsep.join([str(SLEEPING), str(PROJECT)]),
            "LORASMITH_LANG": "en",
        }


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "faketime.rc")


def python(clock: Clock, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=clock.environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_clock_is_false(clock: Clock, tmp_path: Path) -> None:
    """Or the tests below would say nothing."""
    years = []
    for number in range(len(OFFSETS)):
        clock.set(number)
        years.append(int(python(clock, tmp_path, "-c", "import time; print(time.gmtime().tm_year)").stdout))
    now = years[-1]
    assert years[2] == now - 10 and years[3] == now + 10 and years[4] < 1980


@pytest.mark.parametrize("when", ["during", "between"])
def test_the_same_states_and_the_same_bytes(workshop: Workshop, clock: Clock, when: str) -> None:
    """Of a run that three starts make, each at another time, or at all times."""
    folder = workshop.folder
    shutil.copy(PROJECT / "train_lora.py", folder)
    (folder / "lorasmith.toml").write_text(f'base_model = "{workshop.base_model}"\n')
    cadence = ("--save-every", "1", "--evaluate-every", "0", "--keep-states", "9", "--stall-timeout", "20")
    for number, (command, count) in enumerate(STARTS):
        clock.set((2, 3, 0)[number])
        if when == "during":
            with clock.running_wild():
                done = python(clock, folder, "train_lora.py", command, "--steps", str(count), *cadence)
        else:
            done = python(clock, folder, "train_lora.py", command, "--steps", str(count), *cadence)
        assert done.returncode == ExitCode.FINISHED, done.stdout + done.stderr
        assert "Traceback" not in done.stderr and "Cannot write" not in done.stdout
    events = read_events(workshop.run.ledger)
    assert [one.resumed_from for one in events if isinstance(one, RunStarted)] == [None, 3, 5]
    assert [one.step for one in events if isinstance(one, CheckpointSaved)] == list(range(8))
    times = [one.time for one in events]
    assert times != sorted(times), "the clock was set back"
    watched = read_events(workshop.run.supervisor_log)
    assert not [one for one in watched if isinstance(one, WorkerHung | WorkerRestarted)]
    assert len(list(workshop.run.training_logs.glob("*.html"))) == len(STARTS)
    found = workshop.digest(), workshop.losses()
    workshop.output = "undisturbed"
    workshop.new(7)
    assert (workshop.digest(), workshop.losses()) == found
    if when == "during":
        assert clock.changes > 20
