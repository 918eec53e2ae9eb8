"""A step of the demo on a quiet machine and beside one busy process, in turn.

    python -m benchmarks.busy FOLDER [--rounds 3] [--steps 12] [--beside CHECKOUT]

Makes the demo's pictures in FOLDER and runs `train_lora.py` there: quiet, and beside a program that wants a whole core.
With --beside the same is done with another checkout of this program in the same rounds, so that two commits can be
compared. A step's time is what the ledger says, the median of those after the second. The machine has to be quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.floor import ROOT
from lorasmith.demo.lesson import SETTINGS, draw_lesson

WARM_UP_STEPS = 2
SURROUNDINGS = ("quiet", "busy")


def main() -> None:
    asked = _arguments()
    programs = {"this": ROOT, **({"other": asked.beside.resolve()} if asked.beside else {})}
    folders = {name: _prepared(asked.folder.resolve() / name) for name in programs}
    taken: dict[tuple[str, str], list[float]] = {}
    for number in range(asked.rounds):
        for around in SURROUNDINGS:
            # Whichever comes first has the warmer machine: they take turns.
            for name in list(programs)[:: 1 if number % 2 == 0 else -1]:
                with _neighbour(around == "busy"):
                    seconds = _step(programs[name], folders[name], asked.steps)
                taken.setdefault((name, around), []).append(seconds)
                sys.stdout.write(f"round {number + 1}: {name}, {around}: {seconds:.3f} s\n")
                sys.stdout.flush()
    _show(taken, list(programs))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--beside", type=Path, help="another checkout of this program")
    return parser.parse_args()


def _prepared(folder: Path) -> Path:
    """A folder with the demo's pictures and settings."""
    data = folder / "lora_train_set"
    if not data.exists():
        data.mkdir(parents=True)
        draw_lesson(data)
    settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in SETTINGS.items())
    (folder / "lorasmith.toml").write_text(settings, encoding="utf-8")
    return folder


def _step(program: Path, folder: Path, steps: int) -> float:
    """Seconds of a step of a new run."""
    for old in ("lora_output", "lora_output_backup", "training_logs"):
        shutil.rmtree(folder / old, ignore_errors=True)
    command = [sys.executable, str(program / "train_lora.py"), "--new", "--steps", str(steps), "--evaluate-every", "0"]
    environment = {**os.environ, "PYTHONPATH": str(program)}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
    events = map(json.loads, (folder / "lora_output" / "ledger.jsonl").read_text(encoding="utf-8").splitlines())
    seconds = [event["seconds"] for event in events if event["event"] == "StepCompleted"]
    return statistics.median(seconds[WARM_UP_STEPS:])


@contextmanager
def _neighbour(is_there: bool) -> Iterator[None]:
    """A program that wants a whole core, while the context lasts."""
    if not is_there:
        yield
        return
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        neighbour.kill()
        neighbour.wait()


def _show(taken: dict[tuple[str, str], list[float]], programs: list[str]) -> None:
    medians = {key: statistics.median(seconds) for key, seconds in taken.items()}
    for name in programs:
        quiet, busy = (medians[name, around] for around in SURROUNDINGS)
        sys.stdout.write(f"{name}: quiet {quiet:.3f} s, busy {busy:.3f} s = {busy / quiet:.2f} x quiet\n")
    if len(programs) == 2:
        for around in SURROUNDINGS:
            first, second = (medians[name, around] for name in programs)
            sys.stdout.write(f"{around}: this is {first / second:.2f} x the other\n")


if __name__ == "__main__":
    main()
