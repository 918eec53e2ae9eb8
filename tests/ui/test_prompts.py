"""The questions, at a real pseudo-terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pexpect = pytest.importorskip("pexpect", reason="a pseudo-terminal: not on Windows")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 120  # a start takes a second where nothing else wants the processor


class Session:
    """A person at a terminal in an empty folder."""

    def __init__(self, folder: Path, arguments: str, **environment: str) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "tests.ui.fake_train_lora", *arguments.split()],
            cwd=str(folder),
            env={
                **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
                "PYTHONPATH": str(ROOT),
                "PYTHONUTF8": "1",
                "TERM": "xterm",
                "LANG": "C.UTF-8",
                **environment,
            },
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
            dimensions=(30, 120),
            # As at a terminal, also where these tests run in the background of a shell, which ignores it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def sees(self, text: str) -> None:
        self.child.expect_exact(text)

    def types(self, text: str) -> None:
        self.child.sendline(text)

    def presses_ctrl_c(self) -> None:
        """Once the answer is waited for: a signal between the question and the call that reads is heard with the next
        key only, and a person is not so quick."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while psutil.Process(self.child.pid).status() != psutil.STATUS_SLEEPING:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        self.child.sendintr()

    def leaves(self) -> int:
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert isinstance(self.child.exitstatus, int)
        return self.child.exitstatus


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    return tmp_path


@pytest.mark.ci
def test_the_first_run_asks_for_the_base_model_and_remembers_it(folder: Path) -> None:
    (folder / "lorasmith.toml").write_text("# mine\nrank = 4\n")
    session = Session(folder, "--new --steps 3")
    session.sees("Which base model?")
    session.sees("1. demo")
    session.types("no-such-model")
    session.sees("There is no `no-such-model`")
    session.types("")
    session.sees("Type a number from the list")
    session.types("1")
    session.sees("Written to `lorasmith.toml`")
    session.sees("Reached the maximum of 3 steps")
    assert session.leaves() == 0
    assert (folder / "lorasmith.toml").read_text() == '# mine\nrank = 4\nbase_model = "demo"\n'
    again = Session(folder, "--new --steps 4")
    again.sees("Device: ")  # the first line: nothing was asked
    assert "base model" not in again.child.before
    again.sees("Reached the maximum of 4 steps")
    assert again.leaves() == 0


@pytest.mark.ci
def test_a_path_dropped_on_the_window_is_taken(folder: Path) -> None:
    model = folder / "my model.safetensors"
    model.write_bytes(b"")
    session = Session(folder, "--new --steps 1")
    session.sees("Number, path or hub id:")
    session.types(f"'{model}'")
    session.sees("Reached the maximum of 1 steps")
    assert session.leaves() == 0
    assert str(model) in (folder / "lorasmith.toml").read_text()


def test_new_without_steps_asks_refuses_and_takes_enter_as_100(folder: Path) -> None:
    session = Session(folder, "--new --base-model demo")
    session.sees("fewer than 50 pictures 200–500")
    session.sees("Pictures: 8; suggested: 200–400 steps, so that each picture is seen 25–50 times")
    for wrong in ("0", "-3", "abc", "1.5"):
        session.sees("Steps [100]:")
        session.types(wrong)
        session.sees(f"`{wrong}` is not a number of steps")
    session.types("")
    session.sees("Reached the maximum of 100 steps")
    assert session.leaves() == 0
    assert not (folder / "lorasmith.toml").exists()  # named on the command line: not written


def test_how_often_each_picture_is_seen_goes_by_the_batches(folder: Path) -> None:
    session = Session(folder, "--new --base-model demo --batch-size 2 --accumulate 2")
    session.sees("Pictures: 8; suggested: 200–400 steps, so that each picture is seen 100–200 times")
    session.child.sendeof()
    assert session.leaves() == 2


@pytest.mark.ci
def test_continue_says_how_many_are_done(folder: Path) -> None:
    assert subprocess_run(folder, "--new --steps 7 --base-model demo") == 0
    session = Session(folder, "--continue")
    session.sees("Steps done: 7")
    session.sees("Steps [100]:")
    session.types("5")
    session.sees("Continuing at step 7: 5 more, to step 12")
    session.sees("Reached the maximum of 12 steps")
    assert session.leaves() == 0


@pytest.mark.ci
def test_without_a_mode_it_asks_in_chinese_and_offers_what_is_there(folder: Path) -> None:
    session = Session(folder, "--base-model demo", LANG="zh_TW.UTF-8")
    session.sees("要訓練新的 LoRA，還是繼續現有的訓練？")
    session.sees("編號 [1]：")
    session.types("9")
    session.sees("`9` 不在選項中")
    session.types("")
    session.sees("步數 [100]：")
    session.types("３")  # as an input method for Chinese types it
    session.sees("達到最大訓練步數 3")
    assert session.leaves() == 0
    again = Session(folder, "", LANG="zh_TW.UTF-8")
    again.sees("編號 [2]：")
    again.types("２")
    again.sees("已完成步數：3")
    again.sees("步數 [100]：")
    again.presses_ctrl_c()
    assert again.leaves() == 2


@pytest.mark.parametrize("leave", [Session.presses_ctrl_c, lambda session: session.child.sendeof()], ids=["C", "D"])
def test_leaving_at_a_prompt_changes_nothing(folder: Path, leave: Callable[[Session], None]) -> None:
    session = Session(folder, "--new")
    session.sees("Number, path or hub id:")
    leave(session)
    assert session.leaves() == 2
    assert "Traceback" not in session.child.before
    assert list(folder.iterdir()) == []


@pytest.mark.ci
def test_a_pipe_is_no_terminal(folder: Path) -> None:
    session = Session(folder, "--new --base-model demo")
    session.sees("Steps [100]:")  # both ends are terminals here
    session.presses_ctrl_c()
    assert session.leaves() == 2
    assert subprocess_run(folder, "--new --base-model demo") == 2


@pytest.mark.ci
def test_the_moving_line_shows_the_numbers(folder: Path) -> None:
    session = Session(folder, "--new --base-model demo --steps 30 --test-slow")
    session.sees("loss 0.")
    session.sees("average 0.")
    session.sees("steps/s")
    session.sees("left 0:00:")
    session.sees("Reached the maximum of 30 steps")
    assert session.leaves() == 0


def subprocess_run(folder: Path, arguments: str) -> int:
    return subprocess.run(
        [sys.executable, "-m", "tests.ui.fake_train_lora", *arguments.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    ).returncode
