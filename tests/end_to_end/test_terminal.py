"""What a person does at a real terminal, with the mission's own commands, from the first question to the last file."""

import os
import shutil
import sys
from pathlib import Path

import pexpect
import pytest

from lorasmith.demo.miniature import draw_pictures, to_single_file
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events, steps

PROJECT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="pexpect needs a pseudo-terminal")


@pytest.fixture
def folder(tmp_path: Path, base_model: Path, shared_cache: Path) -> Path:
    """A person's folder: the project's scripts beside pictures, and a WebUI's checkpoint above."""
    checkpoints = tmp_path / "models" / "Stable-diffusion"
    checkpoints.mkdir(parents=True)
    to_single_file(base_model, checkpoints / "favourite.safetensors", with_configs=True)
    folder = tmp_path / "lora"
    draw_pictures(folder / "lora_train_set", 4, seed=4, size=(64, 64))
    (folder / ".lorasmith_cache").symlink_to(shared_cache)
    (folder / "train_lora.py").write_text((PROJECT / "train_lora.py").read_text())
    return folder


def started(folder: Path, *arguments: str) -> pexpect.spawn:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "LORASMITH_LANG": "en", "TERM": "xterm-256color"}
    command = ["train_lora.py", *arguments]
    return pexpect.spawn(
        sys.executable, command, cwd=str(folder), env=environment, encoding="utf-8", timeout=240, dimensions=(40, 200)
    )


def ended(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus is not None
    return int(child.exitstatus)


def done(folder: Path) -> int:
    return steps(read_events(RunFolder(folder / "lora_output").ledger))[-1].step


@pytest.mark.ci
def test_the_first_days_of_a_lora(folder: Path) -> None:
    # The first run asks for the base model, offers the WebUI's, and remembers it; then for the steps.
    first = started(folder, "--new", "--evaluate-every", "0")
    first.expect("Which base model")
    first.expect(r"favourite\.safetensors")
    first.expect(":")
    first.sendline("1")
    for refused in ("0", "-3", "abc"):
        first.expect(r"Steps \[100\]:")
        first.sendline(refused)
        first.expect("is not a number of steps")
    first.expect(r"Steps \[100\]:")
    first.sendline("")
    first.expect("Reached the maximum of 100 steps")
    assert ended(first) == 0
    assert done(folder) == 100
    assert "favourite.safetensors" in (folder / "lorasmith.toml").read_text()

    # Going on says how many steps are done.
    second = started(folder, "--continue")
    second.expect("Steps done: 100")
    second.expect(r"Steps \[100\]:")
    second.sendline("2")
    second.expect("Reached the maximum of 102 steps")
    assert ended(second) == 0

    # The mission's own line, unchanged: nothing is asked any more.
    third = started(folder, "--new", "--steps", "50")
    third.expect("Reached the maximum of 50 steps")
    assert ended(third) == 0
    assert done(folder) == 50
    backup = folder / "lora_output_backup"
    assert len(list(backup.glob("last_backup_*.safetensors"))) == 2
    assert len(list(backup.glob("run_*/ledger.jsonl"))) == 1
    shutil.rmtree(backup)


@pytest.mark.slow  # by default tests/faults/test_interrupts.py presses it at other moments
def test_ctrl_c_saves_and_ends_with_5(folder: Path) -> None:
    (folder / "lorasmith.toml").write_text(
        f'base_model = "{folder.parent}/models/Stable-diffusion/favourite.safetensors"'
    )
    child = started(folder, "--new", "--steps", "5000")
    child.expect(r" ([3-9]|[1-9]\d+)/5000")
    child.sendintr()
    child.expect("Stopped on request")
    assert ended(child) == 5
    at = done(folder)
    assert 3 <= at < 5000
    again = started(folder, "--continue", "--steps", "2")
    again.expect(f"Reached the maximum of {at + 2} steps")
    assert ended(again) == 0
