"""CPU seconds of `extract --rank N` for a layer, beside a whole decomposition, and how much larger its error is.

    python -m benchmarks.extract_layers [--rank 32 64] [--shape 3072x3072 3072x12288] [--rounds 3] [--threads 1]

The changes are random: a fine-tuning (128 directions that fall to a tenth, half of the squares) in rounding noise,
noise alone, and singular values that fall as 1/n. Both ways compute the same layer in turn; the ratio is the median of
the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from lorasmith.lora_tools.arrays import Array
    from lorasmith.lora_tools.leading import Matrix

KINDS = ("tuned", "noise", "falling")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--shape", nargs="+", default=["3072x3072", "3072x12288"])
    parser.add_argument("--kind", choices=KINDS, nargs="+", default=KINDS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = str(asked.threads)  # read when numpy is imported
    for shape in asked.shape:
        rows, columns = map(int, shape.split("x"))
        for kind in asked.kind:
            for rank in asked.rank:
                _compare(rows, columns, kind, rank, asked.rounds)


def _compare(rows: int, columns: int, kind: str, rank: int, rounds: int) -> None:
    import numpy as np

    from lorasmith.lora_tools import low_rank
    from lorasmith.lora_tools.leading import leading

    change = _change(rows, columns, kind)
    cut = low_rank.Cut(rank=rank)
    seconds: dict[str, list[float]] = {"leading": [], "whole": []}
    errors: dict[str, float] = {}
    for _ in range(rounds):
        for way, compute in (("leading", leading), ("whole", lambda *_: None)):
            with patch.object(low_rank, "leading", compute):
                began = time.process_time()
                product = low_rank.reduced_change(change, cut).product
            seconds[way].append(time.process_time() - began)
            errors[way] = float(np.linalg.norm(change - product.up @ product.down) / np.linalg.norm(change))
    ratio = statistics.median(whole / own for own, whole in zip(seconds["leading"], seconds["whole"], strict=True))
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    print(
        f"{rows} x {columns}, {kind}, rank {rank}: {medians['leading']:.2f} s, whole {medians['whole']:.2f} s: "
        f"{ratio:.1f} x; error {errors['leading']:.7f}, best {errors['whole']:.7f}: "
        f"{errors['leading'] / errors['whole'] - 1:+.1e}",
        flush=True,
    )


def _change(rows: int, columns: int, kind: str) -> Array:
    import numpy as np

    random = np.random.default_rng(1)

    def product(values: Matrix) -> Matrix:
        left, right = (random.standard_normal((side, len(values))) / np.sqrt(side) for side in (rows, columns))
        return np.asarray((left * values) @ right.T)

    if kind == "falling":
        return product(1 / np.arange(1, rows + 1)).astype(np.float32)
    noise = random.standard_normal((rows, columns)) / np.sqrt(rows * columns)
    if kind == "noise":
        return noise.astype(np.float32)
    values = np.geomspace(1, 0.1, 128)
    return (product(values / np.linalg.norm(values)) + noise).astype(np.float32)


if __name__ == "__main__":
    main()
