import itertools
import random
from pathlib import Path

import pytest

from lorasmith.data.buckets import Cutting, Rule, buckets, fit
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


# -- the rule of sd-scripts ------------------------------------------------------------------------


def table_of_sd_scripts() -> list[tuple[Cutting, Size, tuple[int, ...]]]:
    """(settings, picture, bucket and resized size) of 200 pictures under 9 settings, as sd-scripts itself gave them."""
    lines = (Path(__file__).parent / "sd_scripts_buckets.tsv").read_text(encoding="utf-8").splitlines()
    settings = [list(map(int, part.split())) for part in lines[1].partition(": ")[2].split(";")]
    cuttings = [
        Cutting(width, step, height, "sd-scripts", least, most, bool(no_upscale))
        for width, height, least, most, step, no_upscale in settings
    ]
    rows = []
    for line in lines[2:]:
        picture, *found = (tuple(map(int, cell.split())) for cell in line.split("\t"))
        rows += [(cutting, Size(*picture), numbers) for cutting, numbers in zip(cuttings, found, strict=True)]
    return rows


def test_the_rule_of_sd_scripts_gives_its_buckets() -> None:
    rows = table_of_sd_scripts()
    assert len(rows) == 200 * 9
    for cutting, picture, numbers in rows:
        resized, bucket, crop = cutting.fit(picture)
        assert (*bucket, *resized) == numbers, (cutting, picture)
        assert crop == ((resized.width - bucket.width) // 2, (resized.height - bucket.height) // 2)


def test_both_rules_differ() -> None:
    """The nearest ratio judges tall pictures more coarsely than wide ones; what is cut off does not."""
    tall, wide = Size(832, 1216), Size(1216, 832)
    least_cut, theirs = Cutting(512, 64), Cutting(512, 64, rule="sd-scripts")
    assert [theirs.fit(size)[1] for size in (tall, wide)] == [(384, 640), (576, 448)]
    assert [least_cut.fit(size)[1] for size in (tall, wide)] == [(448, 576), (576, 448)]


@pytest.mark.parametrize("rule", ["least-cut", "sd-scripts"])
def test_limits_of_buckets_are_rounded_away_from_each_other(rule: Rule) -> None:
    found = Cutting(512, 64, rule=rule, least=300, most=700).sizes()
    assert (min(min(found)), max(map(max, found))) == (256, 704)
    assert all(width * height <= 512 * 512 for width, height in found)


def test_without_buckets_all_pictures_have_the_size_that_is_asked_for() -> None:
    cutting = Cutting(512, 64, 700, has_buckets=False)
    for picture in (Size(100, 100), Size(4000, 300), Size(512, 704)):
        resized, bucket, _ = cutting.fit(picture)
        assert bucket == (512, 640)
        assert resized.width == 512 or resized.height == 640


def test_a_picture_that_is_never_enlarged_keeps_its_size() -> None:
    cutting = Cutting(512, 64, never_enlarges=True)
    draw = random.Random(3)
    for _ in range(500):
        picture = Size(draw.randint(64, 3000), draw.randint(64, 3000))
        resized, bucket, _ = cutting.fit(picture)
        assert resized.width <= picture.width + 1
        assert resized.height <= picture.height + 1
        assert bucket.width * bucket.height <= 512 * 512 * 1.15
        if picture.width * picture.height <= 512 * 512:
            assert resized == picture
    assert min(cutting.fit(Size(4987, 73))[1]) == 0  # too narrow for any bucket


@pytest.mark.parametrize(
    ("asked", "original", "taken"),
    [("auto", (512, 512), "area"), ("auto", (500, 600), "lanczos"), ("bicubic", (9, 9), "bicubic")],
)
def test_the_filter_follows_the_size(asked: str, original: tuple[int, int], taken: str) -> None:
    assert Cutting(512, 64, resampling=asked).resampling_of(Size(*original), Size(512, 512)) == taken
