"""Changes of pictures from use to use: mirrored, cut elsewhere, in other colours. Functions of the seed and the use.

What a picture is changed to is an example again, with another cut, and a tint. Knows no files and no encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from lorasmith.config.sections import AugmentationConfig
from lorasmith.data.types import Example, Offset, Size, Use
from lorasmith.seeding import fold

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The numbers of sd-scripts: a third of the uses are tinted, and half of those by hue.
TINTED, BY_HUE = 0.33, 0.5
MAX_HUE = 8 / 180  # of the circle
LEAST_GAMMA, MOST_GAMMA = 0.95, 1.05
SHIFTED_FACE = 40  # pixels: a smaller face, or under a tenth of the cut, stays in the middle
FACE_NUMBERS = 4  # x and y of the middle, width, height

Draw = Callable[[], float]  # uniform in [0, 1)


class Tint(NamedTuple):
    """A change of colours."""

    hue: float = 0.0  # added, as a share of the circle
    gamma: float = 1.0  # the exponent of the values from 0 to 1


class Variant(NamedTuple):
    """An example as it is at a use."""

    example: Example
    tint: Tint


class Face(NamedTuple):
    """A face in a picture, in pixels."""

    x: int  # of its middle
    y: int
    width: int
    height: int


PLAIN = Tint()


def variant_at(example: Example, settings: AugmentationConfig, seed: int, use: Use) -> Variant:
    """The example at a use. Each kind of change has random numbers of its own, so that none moves with another."""

    def draw(name: str) -> Draw:
        return Random(fold(seed, "picture", name, use.step, use.micro, use.row)).random

    changed = example
    face = face_of(example) if settings.face_crop else None
    if face is not None and settings.face_crop is not None and example.is_unbucketed:
        changed = cut_around(example, face, settings.face_crop, draw("crop"), moves=settings.random_crop)
    elif settings.random_crop:
        changed = cut_anywhere(example, draw("crop"))
    if settings.flip and draw("flip")() < 0.5:
        changed = mirrored(changed)
    return Variant(changed, drawn_tint(draw("color")) if settings.color else PLAIN)


def mirrored(example: Example) -> Example:
    """The example, mirrored left to right; its offset is that in the mirrored picture."""
    left = example.resized.width - example.bucket.width - example.crop.left
    return replace(example, is_mirrored=not example.is_mirrored, crop=Offset(left, example.crop.top))


def cut_anywhere(example: Example, draw: Draw) -> Example:
    """The example, cut at any place. Without buckets it is not scaled, where it is large enough."""
    bucket, resized = example.bucket, example.resized
    if example.is_unbucketed and example.original.width >= bucket.width and example.original.height >= bucket.height:
        resized = example.original
    left = _whole(draw, 0, resized.width - bucket.width)
    return replace(example, resized=resized, crop=Offset(left, _whole(draw, 0, resized.height - bucket.height)))


def drawn_tint(draw: Draw) -> Tint:
    """A tint, or none."""
    if draw() >= TINTED:
        return PLAIN
    if draw() < BY_HUE:
        return Tint(hue=(2 * draw() - 1) * MAX_HUE)
    return Tint(gamma=LEAST_GAMMA + draw() * (MOST_GAMMA - LEAST_GAMMA))


# -- faces -----------------------------------------------------------------------------------------


def face_of(example: Example) -> Face | None:
    """The face that the name of a file tells of: `anything_x_y_width_height`."""
    parts = example.image.stem.split("_")
    numbers = parts[-FACE_NUMBERS:]
    if len(parts) <= FACE_NUMBERS or not all(part.isdecimal() for part in numbers):
        return None
    face = Face(*map(int, numbers))
    return face if face.x > 0 and max(face.width, face.height) > 0 else None


def cut_around(example: Example, face: Face, sides: tuple[float, float], draw: Draw, *, moves: bool) -> Example:
    """The example, cut around a face as sd-scripts does: scaled so that the cut's shorter side is from `sides[0]` to
    `sides[1]` times the face, but never enlarged and never smaller than the cut; with the face in the middle, or near
    it where it `moves` or where the scale varies."""
    original, bucket = example.original, example.bucket
    length, side = max(face.width, face.height), min(bucket)
    covers = max(bucket.width / original.width, bucket.height / original.height)
    least = max(covers, min(1.0, side / (length * sides[1])))
    most = max(least, min(1.0, side / (length * sides[0])))
    scale = least + draw() * (most - least)
    width, height = (int(edge * scale + 0.5) for edge in original)
    resized = Size(max(width, bucket.width), max(height, bucket.height))
    middles = (int(face.x * scale + 0.5), int(face.y * scale + 0.5))
    places = []
    for middle, whole, part in zip(middles, resized, bucket, strict=True):
        start = middle - part // 2
        if moves:
            reach = max(whole - middle, middle)
            start += _whole(draw, 0, reach) + _whole(draw, 0, reach) - reach
        elif sides[0] != sides[1] and length > side // 10 and length >= SHIFTED_FACE:
            start += _whole(draw, -length // 20, length // 20)
        places.append(max(0, min(start, whole - part)))
    return replace(example, resized=resized, crop=Offset(*places))


def _whole(draw: Draw, least: int, most: int) -> int:
    """A whole number from `least` to `most`, both included."""
    return least + int(draw() * (most - least + 1))


# -- pixels ----------------------------------------------------------------------------------------


def tinted(pixels: NDArray[np.float32], tint: Tint) -> NDArray[np.float32]:
    """(3, H, W) in [-1, 1] in other colours."""
    import numpy as np

    if tint == PLAIN:
        return pixels
    values = np.clip((pixels + np.float32(1)) / np.float32(2), 0, 1)
    if tint.gamma != 1:
        values = values ** np.float32(tint.gamma)
    if tint.hue:
        values = _turned(values, tint.hue)
    return np.ascontiguousarray(values * np.float32(2) - np.float32(1), dtype=np.float32)


def _turned(values: NDArray[np.float32], hue: float) -> NDArray[np.float32]:
    """RGB in [0, 1] with the hue of HSV turned by a share of the circle."""
    import numpy as np

    red, green, blue = values
    most, least = values.max(axis=0), values.min(axis=0)
    chroma = most - least
    safe = np.where(chroma == 0, np.float32(1), chroma)
    sextant = np.where(
        most == red,
        (green - blue) / safe,
        np.where(most == green, (blue - red) / safe + np.float32(2), (red - green) / safe + np.float32(4)),
    )
    turned = sextant + np.float32(6 * hue)
    channels = [most - chroma * _share((turned + np.float32(offset)) % np.float32(6)) for offset in (5, 3, 1)]
    return np.stack(channels).astype(np.float32)


def _share(place: NDArray[np.float32]) -> NDArray[np.float32]:
    """The share of the chroma that a channel lacks at a place of the circle, which counts to 6."""
    import numpy as np

    share: NDArray[np.float32] = np.clip(np.minimum(place, np.float32(4) - place), 0, 1)
    return share
