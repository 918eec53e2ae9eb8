"""How soon the program answers where no model is needed: help, and what is refused.

    python -m benchmarks.start_up [--rounds 9]

Prints, for each command line, the least CPU time of its process: in seconds, and as a ratio to a Python of the same
round that does nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTHING = "python -c pass"
TYPED = (
    "--help",
    "--stepz 3",
    "--new --steps 5 --base-model /no/such/model",
    "--new --steps 5 --base-model no/model",
    "--new --steps 5 --base-model demo --data nowhere",
    "--continue --steps 5",
    "--new --steps 5 --base-model demo --optimizer sgd",
    "--new --steps 5 --base-model demo --device foo",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_up")
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    commands = {NOTHING: ["-c", "pass"], **{typed: [str(ROOT / "train_lora.py"), *typed.split()] for typed in TYPED}}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, command in commands.items():
                taken[name].append(_cpu_seconds([sys.executable, *command], Path(folder)))
    for name, seconds in taken.items():
        ratios = [one / nothing for one, nothing in zip(seconds, taken[NOTHING], strict=True)]
        sys.stdout.write(f"{min(seconds):6.3f} s  {min(ratios):5.1f} x  {name}\n")


def _cpu_seconds(command: list[str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}  # no answer of a server is measured
    subprocess.run(command, cwd=folder, env=offline, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
