"""What a step cannot beat: its floating-point work at the rate of this machine's large matrix product.

    python -m benchmarks.floor [--precision bf16] [--device cuda]

The rate is the median over several 4096 x 4096 x 4096 products on all of torch's threads, or on the GPU. The work of a
step on Stable Diffusion 1.5 (batch 1, rank 32, 192 modules, forward, gradients to activations and to the LoRA) was
counted with torch.utils.flop_counter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIDE = 4096
STEP_GFLOP = {256: 379.0, 512: 1781.0}  # by resolution in pixels


def matrix_rate(precision: str, *, device: str = "cpu", repeats: int = 5) -> float:
    """GFLOP/s of torch.mm in this process, median of `repeats` after one that is thrown away."""
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(SIDE, SIDE, generator=generator).to(device, kind) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    seconds = []
    for _ in range(repeats + 1):
        wait()
        began = time.perf_counter()
        torch.mm(one, other)
        wait()
        seconds.append(time.perf_counter() - began)
    return 2 * SIDE**3 / statistics.median(seconds[1:]) / 1e9


def measured_rate(precision: str, device: str = "cpu") -> float:
    """The same in a process of its own, so that nothing of the caller's memory or threads is in the way."""
    command = [sys.executable, "-m", "benchmarks.floor", "--precision", precision, "--device", device, "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(json.loads(result.stdout)["gflop_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a sentence")
    asked = parser.parse_args()
    rate = matrix_rate(asked.precision, device=asked.device)
    floors = {f"{pixels} px": round(work / rate, 4) for pixels, work in STEP_GFLOP.items()}
    if asked.json:
        print(json.dumps({"precision": asked.precision, "gflop_per_second": rate, "floor_seconds": floors}))
    else:
        print(f"{asked.precision}: {rate:.0f} GFLOP/s; floor of a step: {floors}")


if __name__ == "__main__":
    main()
