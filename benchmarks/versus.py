"""Another trainer beside this one, run in turn on the same machine in the same minutes.

    python -m benchmarks.versus FOLDER --peer 'COMMAND' --seconds 'REGULAR EXPRESSION' [--log FILE] [--cwd FOLDER]

FOLDER is the one that benchmarks.step_time made or will make. COMMAND is the caller's own, a shell command that trains
on the same pictures (FOLDER/sd15-run/lora_train_set) and model (FOLDER/sd15-model; with --size sdxl
FOLDER/sdxl-run/lora_train_set and FOLDER/sdxl-model.safetensors); no peer is known, fetched or built here.

The expression is searched in each line of the peer's output, or of --log once it has ended. With a group, the group is
a step's seconds; with a group named `rate`, steps a second; with a group named `step`, the number of a step that has
ended. Without a group each matching line is the end of a step. In the last two cases the times between them count:
that needs the output, not a log. Peak memory is that of the largest process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from benchmarks.floor import measured_rate
from benchmarks.step_time import WARM_UP_STEPS, run_program, scene_of


def main() -> None:
    asked = _arguments()
    scene = scene_of(asked, asked.size)
    rounds: list[dict[str, Any]] = []
    for number in range(1, asked.rounds + 1):
        rate = measured_rate(asked.precision)
        ours = run_program(scene)
        peer = run_peer(asked.peer, re.compile(asked.seconds), log=asked.log, cwd=asked.cwd)
        one = {"rate": rate, "ours": ours, "peer": peer, "ratio": ours["step"] / peer["step"]}
        rounds.append(one)
        print(f"round {number}: {json.dumps(one)}", flush=True)
    ours_step = statistics.median(one["ours"]["step"] for one in rounds)
    peer_step = statistics.median(one["peer"]["step"] for one in rounds)
    print(f"\nours {ours_step:.3f} s, peer {peer_step:.3f} s a step: {ours_step / peer_step:.2f}")
    for name, unit in (("start_seconds", 1), ("peak_memory", 2**30)):
        if rounds[-1]["peer"][name]:
            ours, peer = (statistics.median(one[who][name] for one in rounds) / unit for who in ("ours", "peer"))
            print(f"{name}: ours {ours:.1f}, peer {peer:.1f}: {ours / peer:.2f}")
    if asked.json:
        asked.json.write_text(json.dumps({"peer": asked.peer, "rounds": rounds}, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer", required=True, help="its command")
    parser.add_argument("--seconds", required=True, help="regular expression that finds its steps' times")
    parser.add_argument("--log", type=Path, help="where to look for them instead of its output")
    parser.add_argument("--cwd", type=Path, default=Path(), help="where its command is run")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--size", choices=("sd15", "sdxl"), default="sd15")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--gradient-checkpointing", nargs="?", const="block", default="none", metavar="LEVEL")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of ours; the peer's command says its own")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where all figures go")
    return parser.parse_args()


def run_peer(command: str, pattern: re.Pattern[str], *, log: Path | None, cwd: Path) -> dict[str, Any]:
    """Runs it to its end and returns its step times, their median after the warm-up, and when the first was seen."""
    if log is not None:
        assert pattern.groups == 1, "a log has no clock: the expression needs a group"
        log.unlink(missing_ok=True)
    began = time.perf_counter()
    process = subprocess.Popen(command, shell=True, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    seen: list[tuple[float, re.Match[str]]] = []
    tail: list[str] = []
    for line in lines_of(process.stdout):
        tail = [*tail[-30:], line]
        match = pattern.search(line)
        is_repeated = match and "step" in pattern.groupindex and any(match["step"] == one["step"] for _, one in seen)
        if match and log is None and not is_repeated:
            seen.append((time.perf_counter() - began, match))
    _, status, used = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{command}\nended with {os.waitstatus_to_exitcode(status)}:\n" + "\n".join(tail))
    whole = time.perf_counter() - began
    if log is not None:
        found = [pattern.search(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        seen = [(whole, match) for match in found if match]
    seconds = step_seconds(seen, pattern)
    if len(seconds) <= WARM_UP_STEPS:
        sys.exit(f"{command}\nshowed {len(seconds)} steps; more than {WARM_UP_STEPS} are needed")
    first = seen[0][0] if log is None else None
    median = statistics.median(seconds[WARM_UP_STEPS:])
    memory = used.ru_maxrss * 1024
    return {
        "step": median,
        "seconds": seconds,
        "start_seconds": first,
        "whole_seconds": whole,
        "peak_memory": memory,
    }


def step_seconds(seen: list[tuple[float, re.Match[str]]], pattern: re.Pattern[str]) -> list[float]:
    """From what was matched and when."""
    if pattern.groups == 0 or "step" in pattern.groupindex:
        return [later - earlier for (earlier, _), (later, _) in pairwise(seen)]
    if "rate" in pattern.groupindex:
        return [1 / float(match["rate"]) for _, match in seen]
    return [float(match[1]) for _, match in seen]


def lines_of(stream: BinaryIO | Any) -> Iterator[str]:
    """As they come; a carriage return ends a line too, since progress bars end none other."""
    left = b""
    while piece := os.read(stream.fileno(), 1 << 16):
        *lines, left = re.split(rb"[\r\n]+", left + piece)
        yield from (line.decode("utf-8", errors="replace") for line in lines)
    yield left.decode("utf-8", errors="replace")


if __name__ == "__main__":
    main()
