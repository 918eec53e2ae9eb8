"""The sizes that pictures are cut to (buckets), and the cut of a picture. Integers only: the same on every machine.

Knows nothing of files; a bucket is a size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import isqrt
from typing import Literal

from lorasmith.data.types import Offset, Size

Rule = Literal["least-cut", "sd-scripts"]
SD_SCRIPTS_LIMITS = (256, 1024)  # pixels: the smallest and the largest side of a bucket where none are asked for


@dataclass(frozen=True, slots=True)
class Cutting:
    """The cut of pictures: settings of a subset, as numbers."""

    resolution: int  # pixels: the width of the size that is asked for
    size_multiple: int  # pixels
    height: int = 0  # of that size; 0: as its width
    rule: Rule = "least-cut"
    least: int | None = None  # pixels: limits of the sides of buckets; None: as the rule has them
    most: int | None = None
    never_enlarges: bool = False
    has_buckets: bool = True  # False: all pictures are cut to the size that is asked for
    resampling: str = "lanczos"  # of pictures; "auto": of each by its size

    @property
    def size(self) -> Size:
        return Size(self.resolution, self.height or self.resolution)

    def fit(self, original: Size) -> tuple[Size, Size, Offset]:
        """(resized, bucket, crop) of a picture. A side of the bucket is 0 where the picture is too narrow for a bucket
        without being enlarged."""
        if self.has_buckets and self.never_enlarges:
            return unenlarged(original, self.size.width * self.size.height, self.size_multiple)
        sizes = self.sizes()
        return cut(original, nearest_ratio(original, sizes)) if self.rule == "sd-scripts" else fit(original, sizes)

    def resampling_of(self, original: Size, resized: Size) -> str:
        """The filter that a picture is resampled by."""
        if self.resampling != "auto":
            return self.resampling
        return "area" if original.width >= resized.width and original.height >= resized.height else "lanczos"

    def sizes(self) -> tuple[Size, ...]:
        """All buckets, sorted."""
        width, height, multiple = *self.size, self.size_multiple
        if not self.has_buckets:
            return (Size(width // multiple * multiple, height // multiple * multiple),)
        least, most = self.least, self.most
        if self.rule == "sd-scripts":
            least, most = least or SD_SCRIPTS_LIMITS[0], most or SD_SCRIPTS_LIMITS[1]
        return buckets_within(width * height, multiple, least, most)


def buckets(resolution: int, size_multiple: int) -> tuple[Size, ...]:
    """All buckets: every width from about half to twice the resolution with the largest height that fits, and turned.

    Sides are multiples of `size_multiple`; no bucket holds more than resolution x resolution pixels. The square is
    always among them. Sorted.
    """
    return buckets_within(resolution * resolution, size_multiple, None, None)


@cache
def buckets_within(area: int, size_multiple: int, least: int | None, most: int | None) -> tuple[Size, ...]:
    """All buckets of at most `area` pixels with sides from `least` to `most`, which are rounded away from each other to
    multiples of `size_multiple`; None: half and twice the side of a square."""
    side = isqrt(area)
    square = side // size_multiple * size_multiple
    assert square > 0, "the resolution is under the size multiple"
    least = max((side // 2 if least is None else least) // size_multiple, 1) * size_multiple
    most = side * 2 // size_multiple * size_multiple if most is None else -(-most // size_multiple) * size_multiple
    found = {Size(square, square)}
    for width in range(least, most + 1, size_multiple):
        height = min(area // width // size_multiple * size_multiple, most)
        if height >= least:
            found |= {Size(width, height), Size(height, width)}
    return tuple(sorted(found))


def fit(original: Size, buckets: Iterable[Size]) -> tuple[Size, Size, Offset]:
    """(resized, bucket, crop) of a picture: the bucket that keeps most of it, cut from the middle.

    Among buckets that keep as much, the bucket with most pixels is taken, then the first in order.
    """
    return cut(original, min(buckets, key=lambda size: (_lost(original, size), -size.width * size.height, size)))


def nearest_ratio(original: Size, buckets: Iterable[Size]) -> Size:
    """The bucket that sd-scripts takes: the picture's own size if that is one, else the bucket whose width / height
    differs least from the picture's; of several the first in order."""
    sizes = sorted(buckets)
    ratio = Fraction(*original)
    return original if original in sizes else min(sizes, key=lambda size: abs(Fraction(*size) - ratio))


def cut(original: Size, bucket: Size) -> tuple[Size, Size, Offset]:
    """(resized, bucket, crop): `resized` is the whole picture at the smallest size that covers the bucket, one side is
    the bucket's own; cut from the middle."""
    width, height = original
    if bucket.width * height >= bucket.height * width:  # the width decides, and something of the height is cut off
        resized = Size(bucket.width, max(_rounded(height * bucket.width, width), bucket.height))
    else:
        resized = Size(max(_rounded(width * bucket.height, height), bucket.width), bucket.height)
    return resized, bucket, _middle(resized, bucket)


def unenlarged(original: Size, area: int, size_multiple: int) -> tuple[Size, Size, Offset]:
    """(resized, bucket, crop) of a picture that may only be reduced, as sd-scripts has it: reduced to `area` pixels if
    it has more, so that one side becomes a multiple of `size_multiple`; then each side is cut down to a multiple."""
    resized = original
    if original.width * original.height > area:
        ratio = Fraction(*original)
        by_width = _rounded_root(area * ratio, size_multiple)
        by_height = _rounded_root(area / ratio, size_multiple)
        height_of = _floored(by_width / ratio, size_multiple)
        width_of = _floored(by_height * ratio, size_multiple)
        if _differs_less(by_width, height_of, width_of, by_height, ratio):
            resized = Size(by_width, _half_up(by_width / ratio))
        else:
            resized = Size(_half_up(by_height * ratio), by_height)
    bucket = Size(*(side // size_multiple * size_multiple for side in resized))
    return resized, bucket, _middle(resized, bucket)


def _differs_less(width: int, height_of: int, width_of: int, height: int, ratio: Fraction) -> bool:
    """Whether width / height_of is nearer to the ratio than width_of / height; not where either has no area."""
    if not height_of or not height:
        return bool(height_of)
    return abs(Fraction(width, height_of) - ratio) < abs(Fraction(width_of, height) - ratio)


def _rounded_root(square: Fraction, multiple: int) -> int:
    """The root to the nearest whole number, then down to a multiple."""
    doubled = isqrt(4 * square.numerator // square.denominator)  # floor of twice the root
    return (doubled + 1) // 2 // multiple * multiple


def _floored(number: Fraction, multiple: int) -> int:
    """The number to the nearest whole number, then down to a multiple."""
    return _half_up(number) // multiple * multiple


def _half_up(number: Fraction) -> int:
    return _rounded(number.numerator, number.denominator)


def _middle(resized: Size, bucket: Size) -> Offset:
    return Offset((resized.width - bucket.width) // 2, (resized.height - bucket.height) // 2)


def _lost(original: Size, bucket: Size) -> Fraction:
    """The picture's area over the part of it that is kept: 1 or more."""
    first, second = original.width * bucket.height, original.height * bucket.width
    return Fraction(max(first, second), min(first, second))


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
