"""What `lorasmith plan` says of time, memory and room, beside what the run then takes.

    python -m benchmarks.plan_accuracy FOLDER [--steps N] [--rounds 3] [--json FILE] [-- OPTION …]

FOLDER is one to train in: pictures, and a lorasmith.toml that names the base model (`python -m lorasmith.demo.miniature
FOLDER` makes one, `lorasmith demo` another). Each round removes the runs that are there, plans, runs, and compares; the
first without a cache. Predicted over measured should lie between 0.7 and 1.3.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OURS = ("lora_output", "lora_output_backup", "training_logs")
# Runs the command and says at its end the largest of its processes: bytes, where the system counts in KiB.
WATCHED = (
    "import resource, subprocess, sys;"
    "status = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL).returncode;"
    "unit = 1 if sys.platform == 'darwin' else 1024;"
    "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit;"
    "open(sys.argv[1], 'w').write(str(peak)); sys.exit(status)"
)


def main() -> None:
    asked = _arguments()
    folder = asked.folder.resolve()
    rounds = []
    for number in range(1, asked.rounds + 1):
        for name in OURS:
            shutil.rmtree(folder / name, ignore_errors=True)
        if number == 1:
            shutil.rmtree(folder / ".lorasmith_cache", ignore_errors=True)
        predicted = plan(folder, asked.steps, asked.options)
        measured = run(folder, asked.steps, asked.options)
        one = {"predicted": predicted, "measured": measured, "ratio": ratios(predicted, measured)}
        rounds.append(one)
        print(f"round {number}: {json.dumps(one)}", flush=True)
    print(f"\npredicted over measured, of {len(rounds)} rounds:")
    for name in rounds[0]["ratio"]:
        values = [one["ratio"][name] for one in rounds]
        print(f"  {name:<18}{statistics.median(values):.2f}  ({min(values):.2f} to {max(values):.2f})")
    if asked.json:
        asked.json.write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")


def plan(folder: Path, steps: int, options: list[str]) -> dict[str, Any]:
    """What the plan says, and how long it took to say it."""
    command = [sys.executable, "-m", "lorasmith", "plan", "--new", "--json", "--steps", str(steps), *options]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr}")
    plain = json.loads(done.stdout)
    if plain["time"] is None:
        sys.exit(f"nothing was measured: {plain['measured']}")
    return {
        "seconds": plain["time"]["total"],
        "seconds_per_step": plain["time"]["seconds_per_step"],
        "start_seconds": plain["time"]["starting"] + plain["time"]["encoding"],
        "evaluating_seconds": plain["time"]["evaluating"],
        "peak_memory": plain["measured"]["peak_memory"],
        "bytes": plain["disk"]["total"],
        "took_seconds": took,
    }


def run(folder: Path, steps: int, options: list[str]) -> dict[str, Any]:
    """What the run took."""
    had = size_of(folder)
    peak = folder.with_name(f"{folder.name}.peak")
    train = [sys.executable, str(ROOT / "train_lora.py"), "--new", "--lang", "en", "--steps", str(steps), *options]
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(peak), *train], cwd=folder, stdin=subprocess.DEVNULL, check=False
    )
    took = time.time() - began
    if done.returncode != 0:
        sys.exit(f"{' '.join(train)}\nended with {done.returncode}")
    events = [json.loads(line) for line in (folder / "lora_output" / "ledger.jsonl").read_text().splitlines()]
    completed = [one for one in events if one["event"] == "StepCompleted"]
    found = {
        "seconds": took,
        "seconds_per_step": statistics.mean(one["seconds"] for one in completed[2:]),
        "start_seconds": next(one["time"] for one in events if one["event"] == "RunStarted") - began,
        "evaluating_seconds": sum(one["seconds"] for one in events if one["event"] == "Evaluated"),
        "peak_memory": int(peak.read_text()),
        "bytes": size_of(folder) - had,
    }
    peak.unlink()
    return found


def ratios(predicted: dict[str, Any], measured: dict[str, Any]) -> dict[str, float]:
    """Predicted over measured, of all that was measured."""
    return {name: predicted[name] / value for name, value in measured.items() if value}


def size_of(folder: Path) -> int:
    """Bytes of all files below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where all figures go")
    ours, options = _split(sys.argv[1:])
    asked = parser.parse_args(ours)
    asked.options = options
    return asked


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """What is for this program, and, after `--`, for both commands."""
    cut = words.index("--") if "--" in words else len(words)
    return words[:cut], words[cut + 1 :]


if __name__ == "__main__":
    main()
