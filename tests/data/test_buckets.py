import itertools
import random

import pytest

from lorasmith.data.buckets import buckets, fit
from lorasmith.data.types import Offset, Size

SETTINGS = [(512, 64), (512, 8), (768, 64), (1024, 64), (1024, 32), (256, 64), (64, 8), (64, 64), (100, 64), (333, 8)]


@pytest.mark.parametrize(("resolution", "multiple"), SETTINGS)
def test_every_bucket_keeps_the_rules(resolution: int, multiple: int) -> None:
    found = buckets(resolution, multiple)
    square = resolution // multiple * multiple
    assert Size(square, square) in found
    assert list(found) == sorted(set(found))
    for width, height in found:
        assert width % multiple == height % multiple == 0
        assert width * height <= resolution**2
        assert resolution / 2 - multiple < min(width, height)
        assert max(width, height) <= resolution * 2
        assert Size(height, width) in found
        # one of the sides is the largest that goes with the other
        assert width == height == square or any(
            one * (other + multiple) > resolution**2 or other + multiple > resolution * 2
            for one, other in ((width, height), (height, width))
        )


def test_the_buckets_of_sd15() -> None:
    wide = {(1024, 256), (960, 256), (896, 256), (832, 256), (768, 320), (704, 320), (640, 384), (576, 448)}
    assert set(buckets(512, 64)) == {(512, 512)} | wide | {(height, width) for width, height in wide}


@pytest.mark.parametrize(
    ("original", "resized", "bucket", "crop"),
    [
        ((512, 512), (512, 512), (512, 512), (0, 0)),
        ((64, 64), (512, 512), (512, 512), (0, 0)),
        ((6000, 4000), (640, 427), (640, 384), (0, 21)),  # 3:2 lies between 1.29 and 1.67, nearer to this
        ((640, 384), (640, 384), (640, 384), (0, 0)),
        ((1000, 100), (2560, 256), (1024, 256), (768, 0)),
        ((100, 1000), (256, 2560), (256, 1024), (0, 768)),
        ((513, 512), (513, 512), (512, 512), (0, 0)),
    ],
)
def test_fit(original: Size, resized: Size, bucket: Size, crop: Offset) -> None:
    assert fit(Size(*original), buckets(512, 64)) == (resized, bucket, crop)


@pytest.mark.parametrize(("resolution", "multiple"), SETTINGS)
def test_fit_covers_its_bucket_and_loses_least(resolution: int, multiple: int) -> None:
    sizes = buckets(resolution, multiple)
    draw = random.Random(resolution * multiple)
    for _ in range(200):
        original = Size(draw.randint(64, 5000), draw.randint(64, 5000))
        resized, bucket, crop = fit(original, sizes)
        assert bucket in sizes
        assert resized.width == bucket.width or resized.height == bucket.height
        assert resized.width >= bucket.width
        assert resized.height >= bucket.height
        assert abs(2 * crop.left + bucket.width - resized.width) <= 1
        assert abs(2 * crop.top + bucket.height - resized.height) <= 1
        scale = max(bucket.width / original.width, bucket.height / original.height)
        assert abs(resized.width - original.width * scale) <= 0.51
        assert abs(resized.height - original.height * scale) <= 0.51

        def kept(one: Size, shape: float = original.width / original.height) -> float:
            return min(shape / (one.width / one.height), (one.width / one.height) / shape)

        assert kept(bucket) >= max(map(kept, sizes)) - 1e-12


def test_the_order_of_the_buckets_does_not_matter() -> None:
    sizes = [Size(64, 128), Size(128, 64), Size(96, 96), Size(64, 64), Size(128, 128)]
    for original in (Size(100, 100), Size(141, 100), Size(100, 141), Size(300, 100)):
        assert len({fit(original, order) for order in itertools.permutations(sizes)}) == 1
    assert fit(Size(100, 100), sizes)[1] == Size(128, 128)  # of equal shapes the largest
