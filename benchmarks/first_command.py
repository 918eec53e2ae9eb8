"""README's first two commands from a fresh clone in a fresh environment, timed in phases.

    python -m benchmarks.first_command [--clone REPOSITORY] [--steps N]

Prints seconds: the clone, installing, and of `lorasmith demo` the first completed step and the end. Packages come from
where pip finds them: what installing takes is mostly a matter of the line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events, steps

ROOT = Path(__file__).resolve().parents[1]


def measure(repository: str, folder: Path, options: Sequence[str]) -> dict[str, float]:
    """Seconds; "first step" and "end" are after the demo was typed."""
    clone, environment = folder / "clone", folder / "venv"
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"VIRTUAL_ENV": str(environment), "PATH": os.pathsep.join([str(programs), os.environ["PATH"]])}
    found = {"clone": _timed(["git", "clone", "--quiet", repository, str(clone)], folder, variables)}
    found["install"] = _timed([sys.executable, "-m", "venv", str(environment)], folder, variables)
    install = ["pip", "install", "--quiet", "-c", "constraints.txt", "-e", ".[dev,optimizers]"]
    found["install"] += _timed([str(programs / "python"), "-m", *install], clone, variables)
    typed = time.time()
    found["end"] = _timed([str(programs / "lorasmith"), "demo", *options], folder, variables)
    first = steps(read_events(RunFolder(folder / "lorasmith_demo" / "lora_output").ledger))[0]
    found["first step"] = first.time - typed
    return {name: round(found[name], 1) for name in ("clone", "install", "first step", "end")}


def _timed(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=folder, env=dict(variables), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_command", description=__doc__)
    parser.add_argument("--clone", default=str(ROOT))
    parser.add_argument("--steps", type=int, default=300)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(asked.clone, Path(folder), ["--steps", str(asked.steps)]), indent=2))


if __name__ == "__main__":
    main()
