"""Drawn pictures for the tests of the data layer."""

from pathlib import Path

import numpy as np
from PIL import Image

from lorasmith.data import images
from lorasmith.data.files import BadFileError
from lorasmith.data.types import Problem, Size


def drawn(width: int, height: int, number: int = 0) -> Image.Image:
    """A smooth RGB picture without symmetry: red grows to the right, green downwards; the number decides the blue."""
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    blue = np.full((height, width), number * 7 % 256)
    return Image.fromarray(np.stack([across, down, blue], axis=-1).astype(np.uint8))


def put_picture(path: Path, width: int = 96, height: int = 80, number: int = 0) -> Path:
    """Writes a drawn picture, of the kind its extension says, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn(width, height, number).save(path)
    return path


def size_of(path: Path) -> Size:
    """The size of a picture by its header."""
    return images.inspect(path, decode=False)[0]


def problem_of(path: Path) -> Problem | None:
    """The problem with a picture that is decoded to the end; None where there is none."""
    try:
        images.inspect(path, decode=True)
    except BadFileError as error:
        return error.problem
    return None
