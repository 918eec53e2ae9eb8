"""Rate at which a checkpoint becomes a model, beside that of reading the same bytes, and the memory it takes.

    python -m benchmarks.read_checkpoint MODEL [--precision bf16] [--rounds 3]

MODEL is a single file of any family. Each round reads the denoiser's bytes plainly, and then has a fresh process load
the denoiser as a run does; before both, the file is dropped from the system's cache, so that the disk is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from benchmarks.floor import ROOT
from lorasmith.engine.cpu import keep_freed_memory
from lorasmith.engine.device import DTYPES, choose_device
from lorasmith.families import load_family
from lorasmith.families.headers import read_header
from lorasmith.families.ldm_names import UNET_PREFIX
from lorasmith.families.recognize import recognize

BUFFER = 1 << 24  # bytes
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--precision", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.load:
        _load(asked.model, DTYPES[asked.precision])
        return
    ratios = []
    for number in range(1, asked.rounds + 1):
        plain_seconds, size = _read_plainly(asked.model)
        _drop_from_cache(asked.model)
        command = [sys.executable, "-m", "benchmarks.read_checkpoint", *sys.argv[1:], "--load"]
        found = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        ratios.append(plain_seconds / found["seconds"])
        rates = f"disk {size / GIB / plain_seconds:.2f} GiB/s, loading {size / GIB / found['seconds']:.2f} GiB/s"
        print(f"round {number}: {rates}: {ratios[-1]:.2f}; {json.dumps(found)}", flush=True)
    print(f"median: {statistics.median(ratios):.2f} x the rate of plain reading")


def _read_plainly(model: Path) -> tuple[float, int]:
    """Seconds for the denoiser's bytes in the order of the file, and their number."""
    tensors = read_header(model).tensors.items()
    places = sorted((info.start, info.end) for name, info in tensors if name.startswith(UNET_PREFIX))
    _drop_from_cache(model)
    buffer = bytearray(BUFFER)
    began = time.perf_counter()
    with model.open("rb", buffering=0) as file:
        for start, end in places:
            file.seek(start)
            left = end - start
            while left:
                left -= file.readinto(memoryview(buffer)[: min(left, BUFFER)]) or 0
    return time.perf_counter() - began, sum(end - start for start, end in places)


def _drop_from_cache(model: Path) -> None:
    with model.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _load(model: Path, dtype: torch.dtype) -> None:
    """Prints the seconds, those of the processor, the memory that the weights take, and how much was taken at most."""
    keep_freed_memory()
    from diffusers import UNet2DConditionModel  # noqa: F401  libraries are no part of what is measured

    family = load_family(recognize(model))
    before, began, busy = psutil.Process().memory_info().rss, time.perf_counter(), time.process_time()
    denoiser = family.load_models(trained=(), dtype=dtype, to=torch.device("cpu"))["denoiser"]
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    peak = choose_device("cpu", threads=0).peak_memory() - before
    weights = sum(tensor.nbytes for tensor in denoiser.state_dict().values())
    found = {"seconds": round(seconds, 2), "cpu_seconds": round(busy, 2)}
    found |= {"weights_gib": round(weights / GIB, 2), "peak_gib": round(peak / GIB, 2)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
