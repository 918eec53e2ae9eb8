"""What a wrong convention costs in families of flow matching, and what a LoRA changes: the tables of docs/families.md.

    OMP_NUM_THREADS=1 python -m benchmarks.conventions [FAMILY …]

The miniature of each family is first taught to draw, which takes less than a minute: tests/conventions has how.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conventions.families import FAMILIES
from tests.conventions.guesses import GUESSES
from tests.conventions.learned import learned, train_lora
from tests.conventions.measured import LEVELS, ask, load_case, measured
from tests.conventions.taught import teach
from tests.families.tiny import MINIATURES


def main(names: list[str]) -> None:
    for name in names or list(FAMILIES):
        with TemporaryDirectory() as work:
            folder = MINIATURES[name](Path(work) / "model")
            teach(folder, name)
            _print_guesses(folder, name)
            found = learned(folder, name, train_lora(folder, Path(work) / "run"))
        print(f"\nLoRA, before and after: loss {found.losses[0]:.3f}, {found.losses[1]:.3f}; ", end="")
        print(f"distance {found.distances[0]:.3f}, {found.distances[1]:.3f}", flush=True)


def _print_guesses(folder: Path, name: str) -> None:
    case = load_case(folder, name)
    print(f"\n| {name} | {' | '.join(f's = {level}' for level in LEVELS)} |")
    print("|---|" + "--:|" * len(LEVELS))
    for guess, how in {"as it is": ask, **GUESSES[name]}.items():
        print(f"| {guess} | {' | '.join(f'{found.share:.2f}' for found in measured(case, how))} |")


if __name__ == "__main__":
    main(sys.argv[1:])
