"""The picture losses at the end of the demo against their control, for some seeds, and with a learning rate of 0.

    python -m benchmarks.demo_losses FOLDER [--seeds 3] [--steps 300]

The control is the same measure with the LoRA off: what is taught should end well below it, and a run that learns
nothing should stay at it. Measured on EXAMPLES pictures of the concept, the held-out ones first; those alone, as the
demo itself has them, are told too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import tomli_w

from lorasmith.demo.lesson import HELD_OUT, SETTINGS, draw_lesson
from lorasmith.runs.events import Evaluated, RunStarted
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events, surviving

EXAMPLES = 12
MEASURES = ("visual", "semantic", "color")
ROOT = Path(__file__).resolve().parents[1]


def measure(folder: Path, *, seeds: int, steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """{run: {measure: {"control": …, "end": …, "ratio": …, "held out alone": …}}}, the last a ratio; the runs are
    "seed 1", …, and "lr 0", which is short: nothing of it can change."""
    draw_lesson(folder / "lora_train_set")
    (folder / "lorasmith.toml").write_text(tomli_w.dumps(SETTINGS), encoding="utf-8")
    found = {}
    for seed in range(1, seeds + 1):
        found[f"seed {seed}"] = _run(folder, f"seed_{seed}", steps, "--seed", str(seed))
    found["lr 0"] = _run(folder, "lr_0", 2, "--lr", "0")
    return found


def measured_in(run: RunFolder, steps: int) -> dict[str, dict[str, float]]:
    """The picture losses at the end of a run of so many steps against their control."""
    events = surviving(read_events(run.ledger))
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    control = next(event for event in evaluated if event.is_control)
    (end,) = [event for event in evaluated if event.step == steps and not event.is_control]
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert {sample["example"] for sample in end.samples[:HELD_OUT]} == set(started.held_out)
    result = {}
    for one in MEASURES:
        before, after = getattr(control, one), getattr(end, one)
        few = [fmean(sample[one] for sample in event.samples[:HELD_OUT]) for event in (end, control)]
        result[one] = {
            "control": round(before, 4),
            "end": round(after, 4),
            "ratio": round(after / before, 3),
            "held out alone": round(few[0] / few[1], 3),
        }
    return result


def _run(folder: Path, name: str, steps: int, *options: str) -> dict[str, dict[str, float]]:
    command = [sys.executable, "-m", "lorasmith", "train", "--new", "--steps", str(steps), "--output", name, *options]
    command += ["--evaluate-examples", str(EXAMPLES)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LORASMITH_LANG": "en"}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return measured_in(RunFolder(folder / name), steps)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_losses", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(measure(asked.folder, seeds=asked.seeds, steps=asked.steps), indent=2))


if __name__ == "__main__":
    main()
