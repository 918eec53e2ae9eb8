"""Processes that are started apart, looked into and ended: real ones, small."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lorasmith.runtime import processes
from lorasmith.runtime.processes import Output, WorkerProcess, end_process, is_stopped, launch, stack_of
from tests.end_to_end.watched import alive
from tests.runtime.hanging import STACK_PAUSE_SECONDS

PATIENCE_SECONDS = 100.0
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and /proc")
DEAF = "import signal\nfor one in (signal.SIGINT, signal.SIGTERM): signal.signal(one, signal.SIG_IGN)\n"
STACKS = "import faulthandler, signal\nfaulthandler.register(signal.SIGUSR1, 2, all_threads=True)\n"
SLEEP = "import time\ndef deep_inside():\n    print('up', flush=True)\n    while True: time.sleep(60)\ndeep_inside()\n"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that end and print, however busy the machine is. `hasty`: with those that do not."""
    for name in ("INTERRUPT_SECONDS", "TERMINATE_SECONDS", "KILL_SECONDS", "STACK_SECONDS"):
        monkeypatch.setattr(processes, name, PATIENCE_SECONDS)
    monkeypatch.setattr(processes, "STACK_PAUSE_SECONDS", STACK_PAUSE_SECONDS)


@pytest.fixture
def hasty(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INTERRUPT_SECONDS", "TERMINATE_SECONDS", "STACK_SECONDS"):
        monkeypatch.setattr(processes, name, 0.2)


@pytest.fixture
def output() -> Iterator[Output]:
    with closing(Output()) as one:
        yield one


def started(program: str, output: Output) -> WorkerProcess:
    process = launch([sys.executable, "-c", program], output.file)
    while "up" not in output.text():
        assert process.poll() is None, output.text()
        time.sleep(0.005)
    return process


def test_what_it_prints_is_kept(output: Output) -> None:
    process = launch([sys.executable, "-c", "import sys; print('one'); sys.stderr.write('two')"], output.file)
    assert process.wait(timeout=PATIENCE_SECONDS) == 0
    assert sorted(output.text().split()) == ["one", "two"]
    assert output.text(output.size()) == ""


def test_of_too_much_the_end_is_kept(output: Output) -> None:
    # What is printed while it is trimmed may be lost, so the end comes afterwards.
    program = f"""
import os, time
for _ in range(20000):
    print('x' * 70, flush=True)
while not {processes.KEPT_OUTPUT // 2} <= os.fstat(1).st_size <= {processes.MAX_OUTPUT}:
    time.sleep(0.01)
print('end')
"""
    process = launch([sys.executable, "-c", program], output.file)
    while process.poll() is None:
        output.trim()
        assert output.size() < 4 * processes.MAX_OUTPUT
    output.trim()
    assert output.size() <= processes.MAX_OUTPUT
    assert output.text().endswith("end") and len(output.text()) <= processes.KEPT_OUTPUT


def test_what_is_trimmed_goes_on_at_the_end(output: Output) -> None:
    output.file.write(b"a" * (processes.MAX_OUTPUT + 1) + b"\nlast")
    output.trim()
    output.file.seek(0)  # as a reader leaves it
    output.file.write(b"\nmore")
    assert output.text().split()[-2:] == ["last", "more"]
    assert output.size() == processes.KEPT_OUTPUT + 5


def test_with_no_place_for_it_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with closing(Output()) as output:
        process = launch([sys.executable, "-c", "print('x')"], output.file)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
        assert output.text() == ""


def test_it_leads_a_group_of_its_own(output: Output) -> None:
    process = started(SLEEP, output)
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert end_process(process, start_with="kill")
    assert process.returncode == -signal.SIGKILL


def test_the_stack_of_one_that_sleeps(output: Output) -> None:
    process = started(STACKS + SLEEP, output)
    assert not is_stopped(process.pid)
    stack = stack_of(process, output)
    assert "deep_inside" in stack and "most recent call first" in stack and "up" not in stack
    assert end_process(process)
    assert process.returncode == -signal.SIGTERM


def test_one_that_was_stopped_has_no_stack_and_can_be_ended(output: Output, hasty: None) -> None:
    process = started(STACKS + SLEEP, output)
    process.send_signal(signal.SIGSTOP)
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not is_stopped(process.pid):
        assert time.monotonic() < give_up_at
    begun = time.monotonic()
    assert stack_of(process, output) == ""
    assert time.monotonic() - begun < PATIENCE_SECONDS
    assert end_process(process, start_with="interrupt")
    assert process.returncode == -signal.SIGKILL


def test_without_the_signal_the_last_stack_it_printed_by_itself(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STACK_SIGNAL", "SIGNONE")
    every = """
import faulthandler, signal
def enough(*_):
    faulthandler.cancel_dump_traceback_later()
    print("whole", flush=True)
signal.signal(signal.SIGUSR1, enough)
faulthandler.dump_traceback_later(0.05, repeat=True, file=2)
"""
    process = started(every + SLEEP, output)
    while output.text().count("Timeout (") < 2 or "deep_inside" not in output.text().rpartition("Timeout (")[2]:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)  # or the last stack may be half printed
    while "whole" not in output.text():
        time.sleep(0.02)
    stack = stack_of(process, output)
    assert stack.count("Timeout (") == 1 and "deep_inside" in stack
    assert end_process(process, start_with="kill")


@pytest.mark.parametrize(
    ("program", "how", "status"),
    [
        (SLEEP, {"start_with": "interrupt"}, -signal.SIGINT),
        (SLEEP, {}, -signal.SIGTERM),
        (DEAF + SLEEP, {"start_with": "interrupt"}, -signal.SIGKILL),
        (DEAF + SLEEP, {}, -signal.SIGKILL),
        (SLEEP, {"start_with": "kill"}, -signal.SIGKILL),
    ],
)
def test_asks_terminates_kills(
    output: Output, request: pytest.FixtureRequest, program: str, how: dict[str, Any], status: int
) -> None:
    if program.startswith(DEAF):
        request.getfixturevalue("hasty")
    if status == -signal.SIGINT:
        program = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n" + program
    process = started(program, output)
    assert end_process(process, **how)
    assert process.returncode == status
    assert end_process(process)  # again does nothing


@pytest.mark.parametrize("has_groups", [True, False], ids=["group", "as on Windows"])
def test_what_it_has_started_ends_with_it(
    output: Output, hasty: None, monkeypatch: pytest.MonkeyPatch, has_groups: bool
) -> None:
    if not has_groups:
        monkeypatch.delattr(os, "killpg")
    child = "import subprocess, sys\none = subprocess.Popen(['sleep', '60'])\nprint('pid', one.pid, flush=True)\n"
    process = started(DEAF + child + SLEEP, output)
    pid = int(output.text().split()[1])
    assert alive(pid)
    assert end_process(process)
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while alive(pid):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_one_that_cannot_be_killed_is_told(output: Output, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process that a driver holds in the kernel."""
    process = started(SLEEP, output)
    with monkeypatch.context() as patch:
        patch.setattr(processes, "KILL_SECONDS", 0.1)
        patch.setattr(os, "killpg", lambda pid, number: None)
        begun = time.monotonic()
        assert not end_process(process)
        assert time.monotonic() - begun < PATIENCE_SECONDS
    assert end_process(process, start_with="kill")


def test_nobody_is_stopped_who_is_not_there() -> None:
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    assert not is_stopped(int(process.stdout))
    assert not is_stopped(os.getpid())


def test_a_worker_imports_nothing_that_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "out").open("wb") as output:
        worker = processes.launch_worker(["--nonsense"], output)
        assert worker.wait(PATIENCE_SECONDS) not in (99, None)
    assert b"argument" in (tmp_path / "out").read_bytes() or b"usage" in (tmp_path / "out").read_bytes()
