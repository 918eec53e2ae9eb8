"""Ctrl+C, once and twice, in each phase of a run in a real terminal: what is on the disk is good, nothing is said that
only a programmer reads, and the terminal is as it was.
"""

import io
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events, steps
from lorasmith.runs.states import newest_good
from lorasmith.runtime.stop_signals import SAME_PRESS_SECONDS
from tests.end_to_end.workshop import Workshop, tree

PROJECT = Path(__file__).parents[2]
HELD = Path(__file__).parent / "held"
pytestmark = pytest.mark.skipif(os.name == "nt", reason="pexpect needs a pseudo-terminal")

PATIENCE_SECONDS = 240.0
COUNT = 4
# A shell of its own, which outlives the program and says what it left of the terminal.
SHELL = 'trap : INT; "$0" "$@"; echo "code=$?"; stty -a; echo "that was all"; read line; echo "typed <$line>"'
# Phase -> arguments that make it come.
PHASES: dict[str, tuple[str, ...]] = {
    "loading": (),
    "caching": (),
    "step": (),
    "saving": (),
    "exporting": (),
    "evaluating": ("--evaluate-every", "2", "--evaluate-examples", "1"),
    "last save": (),
    "last evaluation": ("--evaluate-every", "1000", "--evaluate-examples", "1"),
    "report": (),
    "drawing": (),
}
NOT_BEGUN = ("loading", "caching")
COMPLETED = ("last save", "last evaluation", "report", "drawing")  # step N is completed
EXPORTED = ("last evaluation", "report", "drawing")  # and all of it is on the disk
IN_CI = (("loading", 1), ("saving", 1), ("step", 2))
OF_PROGRAM = ("report", "drawing")  # after these there is nothing left to press at
CASES = [(phase, presses) for phase in PHASES for presses in (1, 2) if presses == 1 or phase not in OF_PROGRAM]
if "FAULT_RUNS" in os.environ:  # each phase once
    CASES = [*IN_CI, *((one, 1 + (one in ("exporting", "last save"))) for one in PHASES if one not in dict(IN_CI))]


@dataclass
class Person:
    """Somebody at a terminal, in a folder with pictures and a base model named."""

    folder: Path
    workshop: Workshop

    @property
    def run(self) -> RunFolder:
        return self.workshop.run

    def types(self, phase: str, *arguments: str, for_good: bool = False) -> "Terminal":
        mark = self.folder / ".held"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HELD), str(PROJECT)]),
            "LORASMITH_LANG": "en",
            "TERM": "xterm-256color",
            "HELD_PHASE": phase,
            "HELD_FILE": str(mark),
            "HELD_FOR_GOOD": "1" if for_good else "0",
        }
        command = ["-c", SHELL, sys.executable, "train_lora.py", *arguments]
        how: dict[str, Any] = {"cwd": str(self.folder), "env": environment, "preexec_fn": _hear_ctrl_c}
        child = pexpect.spawn("sh", command, encoding="utf-8", timeout=PATIENCE_SECONDS, dimensions=(40, 200), **how)
        child.logfile_read = io.StringIO()
        return Terminal(child, mark, self.run)


def _hear_ctrl_c() -> None:
    """Tests that run in the background of a shell have it ignored, and all they start with them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Terminal:
    child: pexpect.spawn
    mark: Path
    run: RunFolder

    def wait_until_held(self) -> None:
        self._wait_for(self.mark)

    def press(self, presses: int) -> None:
        """Ctrl+C; again once the first was heard, and later than what counts as the same press."""
        self.child.sendintr()
        if presses == 2:
            self._wait_for(self.run.stop_request, self.run.staging / self.run.stop_request.name)
            time.sleep(SAME_PRESS_SECONDS + 0.1)
            self.child.sendintr()

    def _wait_for(self, *any_of: Path) -> None:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while not any(path.exists() for path in any_of):
            # What is said must be read: a full terminal makes whoever writes wait.
            said = self.child.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=0.05)
            assert time.monotonic() < give_up_at and said == 0, self.text

    @property
    def text(self) -> str:
        log = self.child.logfile_read
        assert isinstance(log, io.StringIO)
        return log.getvalue()

    def end(self) -> int:
        """The exit code; the terminal is asked whether it still is one."""
        self.child.expect(r"code=(\d+)\s")
        code = int(self.child.match.group(1))
        self.child.expect("that was all")
        self.child.sendline("still here")
        self.child.expect(r"typed <still here>")
        self.child.expect(pexpect.EOF)
        self.child.close()
        text = self.text
        assert text.count("still here") == 2, "what is typed is seen"
        settings = text.split("code=")[1].split()
        assert {"echo", "icanon", "isig", "opost"} <= {one.rstrip(";") for one in settings}
        assert text.rfind("\x1b[?25h") >= text.rfind("\x1b[?25l"), "the cursor is seen"
        assert "\x1b[?1049h" not in text
        assert "Traceback" not in text and "KeyboardInterrupt" not in text and "Exception ignored" not in text
        return code


@pytest.fixture
def person(tmp_path: Path, workshop: Workshop) -> Person:
    folder = workshop.folder
    (folder / "train_lora.py").write_text((PROJECT / "train_lora.py").read_text())
    (folder / "lorasmith.toml").write_text(f'base_model = "{workshop.base_model}"\n')
    return Person(folder, workshop)


@pytest.mark.parametrize(
    ("phase", "presses"),
    [pytest.param(*one, marks=pytest.mark.ci if one in IN_CI else pytest.mark.long) for one in CASES],
)
def test_ctrl_c(person: Person, phase: str, presses: int) -> None:
    if phase == "caching":
        (person.folder / ".lorasmith_cache").unlink()
    arguments = ("--new", "--steps", str(COUNT), "--save-every", "2", *(PHASES[phase] or ("--evaluate-every", "0")))
    terminal = person.types(phase, *arguments, for_good=presses == 2)
    terminal.wait_until_held()
    terminal.press(presses)
    code = terminal.end()
    is_complete = phase in (EXPORTED if presses == 2 else COMPLETED)
    assert code == (ExitCode.FINISHED if is_complete else ExitCode.STOPPED)
    if phase in NOT_BEGUN:
        assert "Stopped before" in terminal.text
        assert not person.run.root.exists() and not person.run.staging.exists()
        return
    check_what_is_left(person, terminal, is_complete=is_complete)


def check_what_is_left(person: Person, terminal: Terminal, *, is_complete: bool) -> None:
    """Good to the byte, and what an undisturbed run has once it was gone on with."""
    state, damaged = newest_good(person.run.root)
    assert state is not None and damaged == []
    assert not list(person.run.root.glob(".*.tmp")) or not is_complete
    assert not person.run.lock.exists() and not person.run.staging.exists()
    if is_complete:
        assert state.step == COUNT and person.run.export("last").exists()
    else:
        assert str(state.path.name) in terminal.text
        assert steps(read_events(person.run.ledger))[-1].step <= COUNT
        assert person.workshop.go_on(None).exit_code == ExitCode.FINISHED
    assert sorted(person.workshop.losses()) == list(range(1, COUNT + 1))
    found = person.workshop.digest()
    person.workshop.output = "undisturbed"
    person.workshop.new(COUNT)
    assert person.workshop.digest() == found


@pytest.mark.long
@pytest.mark.parametrize("presses", [1, 2] if "FAULT_RUNS" not in os.environ else [2])
def test_ctrl_c_before_a_run_goes_on_leaves_it_as_it_was(person: Person, presses: int) -> None:
    person.workshop.new(2)
    before = tree(person.run.root)
    for command in ("--continue", "--new"):
        (person.folder / ".held").unlink(missing_ok=True)
        terminal = person.types("loading", command, "--steps", "2", for_good=presses == 2)
        terminal.wait_until_held()
        terminal.press(presses)
        assert terminal.end() == ExitCode.STOPPED
        after = tree(person.run.root)
        assert after == before


@pytest.mark.long
def test_ctrl_c_while_the_report_of_a_stopped_run_is_made(person: Person) -> None:
    """The run has ended with 5, and so does the program."""
    terminal = person.types("report", "--new", "--steps", "5000", "--save-every", "0", "--evaluate-every", "0")
    terminal.child.expect(r" ([3-9]|[1-9]\d+)/5000")
    terminal.child.sendintr()
    terminal.child.expect("Stopped on request")
    terminal.wait_until_held()
    terminal.child.sendintr()
    assert terminal.end() == ExitCode.STOPPED
    assert "The report was skipped" in terminal.text
