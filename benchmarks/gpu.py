"""Everything that only a GPU shows, in one run of less than eight minutes: step times, shares of the peak, same bits.

    python -m benchmarks.gpu [--minutes 7.5] [--compiled] [--peer COMMAND --seconds 'REGULAR EXPRESSION'] [--json FILE]
    python -m benchmarks.gpu --device cpu          # the same rows of tiny models, to see that it runs

Prints card, driver and versions, then a table: each row in a process of its own, with a random model of the published
size. The textbook loop and, if its command is given (see `benchmarks.versus`), another trainer run in the same
minutes. A row for which no time is left is listed as such; a row that fails shows the end of its error.
What tests show (kills, continuing, no wait inside a step) is in `pytest -m gpu`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_step import Row
from benchmarks.versus import run_peer
from lorasmith.engine.nvidia import peak_of

MAX_ROW_SECONDS = 150
TINY = {"size": "nano", "side": 64, "steps": 5}


def main() -> None:
    asked = _arguments()
    facts = facts_of(asked.device)
    for name, value in facts.items():
        print(f"{name:9} {value}")
    ends, found = time.monotonic() + asked.minutes * 60, []
    for row in rows(asked.device, with_compiled=asked.compiled):
        left = ends - time.monotonic()
        result = {"left_out": "no time"} if left < 20 else measured(row, min(left, MAX_ROW_SECONDS))
        found.append((row, result))
        print(line_of(row, result, found, facts), flush=True)
    if asked.peer:
        peer = run_peer(asked.peer, re.compile(asked.seconds), log=None, cwd=asked.cwd)
        print(f"peer: {peer['step']:.3f} s a step, {asked.peer}")
        found.append((Row("peer", "", 0, 0, asked.device), peer))
    if asked.json:
        report = {"facts": facts, "rows": [{**asdict(row), **result} for row, result in found]}
        asked.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=7.5, help="of all rows; the peer comes after them")
    parser.add_argument("--compiled", action="store_true", help="also compiled blocks: minutes more")
    parser.add_argument("--peer", default="", help="the command of another trainer")
    parser.add_argument("--seconds", default="", help="regular expression that finds its steps' times")
    parser.add_argument("--cwd", type=Path, default=Path())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def facts_of(device: str) -> dict[str, str]:
    """Card, driver and versions."""
    libraries = ("diffusers", "transformers", "peft")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in libraries)
    facts = {"device": platform.processor() or platform.machine(), "driver": "-", "torch": torch.__version__}
    if device.startswith("cuda"):
        facts["device"] = torch.cuda.get_device_name(device)
        facts["torch"] += f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts["driver"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {**facts, "others": versions, "python": platform.python_version()}


def rows(device: str, *, with_compiled: bool) -> list[Row]:
    """The most telling first."""
    sd15, sdxl = Row("textbook", "sd15", 512, 1, device), Row("textbook", "sdxl", 1024, 1, device, steps=20)
    found = [replace(sd15, how=how) for how in ("textbook", "eager", "graph")]
    found += [replace(sd15, how="same-bytes", steps=8)]
    found += [replace(sdxl, how=how) for how in ("textbook", "eager", "graph")]
    found += [replace(sdxl, how=how, batch=4, steps=10) for how in ("eager", "graph")]
    if with_compiled:
        found.append(replace(sd15, how="compiled"))
    # SDXL's only size is its own: a CPU takes SD's layout for both.
    return [replace(row, **TINY) for row in found] if device == "cpu" else found


def measured(row: Row, seconds: float) -> dict[str, Any]:
    """The row's result, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gpu_step", json.dumps(asdict(row))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"left_out": f"longer than {seconds:.0f} s"}
    if done.returncode != 0:
        return {"left_out": (done.stderr.strip().splitlines() or [str(done.returncode)])[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def line_of(row: Row, result: dict[str, Any], found: list[tuple[Row, dict[str, Any]]], facts: dict[str, str]) -> str:
    """A line of the table; ratios are to the textbook loop of the same model, operations those of the eager row."""
    name = f"{row.size:5} {row.side:5} px, batch {row.batch}, {row.how:10}"
    if "left_out" in result:
        return f"{name} -- {result['left_out']}"
    if "same" in result:
        return f"{name} {'the same bits as eager' if result['same'] else f'DIFFERS: {result}'}"
    alike = [(other, values) for other, values in found if (other.size, other.side, other.batch) == row_key(row)]
    textbook = next((values["step"] for other, values in alike if other.how == "textbook" and "step" in values), None)
    flops = next((values["flops"] for _, values in alike if values.get("flops")), None)
    parts = [f"{result['step'] * 1000:8.1f} ms", f"{row.batch / result['step']:7.2f} pictures/s"]
    parts.append(f"{result['peak_memory'] / 2**30:5.1f} GiB")
    parts += [f"{result['step'] / textbook:.2f} x textbook"] if textbook and row.how != "textbook" else []
    if flops:
        rate, peak = flops / result["step"] / 1e12, peak_of(facts["device"]) / 1e12
        parts.append(f"{rate:.1f} TFLOP/s" + (f" = {rate / peak:.0%} of the peak" if peak else ""))
    if "ready" in result:
        parts.append(f"ready in {result['ready']:.0f} s")
    return f"{name} {', '.join(parts)}"


def row_key(row: Row) -> tuple[str, int, int]:
    return row.size, row.side, row.batch


if __name__ == "__main__":
    main()
