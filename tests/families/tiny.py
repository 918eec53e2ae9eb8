"""A model with random weights for each family, small enough for every test: `MINIATURES[family](folder)` writes it."""

from collections.abc import Callable
from pathlib import Path

from lorasmith.demo.miniature import make_model

MINIATURES: dict[str, Callable[[Path], Path]] = {
    "sd15": make_model,
}
