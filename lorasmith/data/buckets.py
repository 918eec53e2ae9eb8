"""The sizes that pictures are cut to (buckets), and the cut of a picture. Integers only: the same on every machine.

Knows nothing of files; a bucket is a size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from lorasmith.data.types import Offset, Size


@dataclass(frozen=True, slots=True)
class Cutting:
    """The cut of pictures: settings of a subset, as numbers."""

    resolution: int  # pixels
    size_multiple: int  # pixels

    def fit(self, original: Size) -> tuple[Size, Size, Offset]:
        """(resized, bucket, crop) of a picture."""
        return fit(original, buckets(self.resolution, self.size_multiple))


@cache
def buckets(resolution: int, size_multiple: int) -> tuple[Size, ...]:
    """All buckets: every width from about half to twice the resolution with the largest height that fits, and turned.

    Sides are multiples of `size_multiple`; no bucket holds more than resolution x resolution pixels. The square is
    always among them. Sorted.
    """
    square = resolution // size_multiple * size_multiple
    assert square > 0, "the resolution is under the size multiple"
    least = max(resolution // 2 // size_multiple, 1) * size_multiple
    most = resolution * 2 // size_multiple * size_multiple
    found = {Size(square, square)}
    for width in range(least, most + 1, size_multiple):
        height = min(resolution * resolution // width // size_multiple * size_multiple, most)
        if height >= least:
            found |= {Size(width, height), Size(height, width)}
    return tuple(sorted(found))


def fit(original: Size, buckets: Iterable[Size]) -> tuple[Size, Size, Offset]:
    """(resized, bucket, crop) of a picture: the bucket that keeps most of it, cut from the middle.

    `resized` is the whole picture at the smallest size that covers the bucket: one side is the bucket's own. Among
    buckets that keep as much, the bucket with most pixels is taken, then the first in order.
    """
    bucket = min(buckets, key=lambda size: (_lost(original, size), -size.width * size.height, size))
    width, height = original
    if bucket.width * height >= bucket.height * width:  # the width decides, and something of the height is cut off
        resized = Size(bucket.width, max(_rounded(height * bucket.width, width), bucket.height))
    else:
        resized = Size(max(_rounded(width * bucket.height, height), bucket.width), bucket.height)
    return resized, bucket, Offset((resized.width - bucket.width) // 2, (resized.height - bucket.height) // 2)


def _lost(original: Size, bucket: Size) -> Fraction:
    """The picture's area over the part of it that is kept: 1 or more."""
    first, second = original.width * bucket.height, original.height * bucket.width
    return Fraction(max(first, second), min(first, second))


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
