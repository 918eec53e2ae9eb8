import colorsys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorasmith.config.sections import AugmentationConfig
from lorasmith.data.augmentation import (
    PLAIN,
    Face,
    Tint,
    cut_around,
    drawn_tint,
    face_of,
    mirrored,
    tinted,
    variant_at,
)
from lorasmith.data.buckets import Cutting
from lorasmith.data.types import Example, Offset, Size, Use

WIDE = Size(1000, 500)


def example_of(original: Size, name: str = "a.png", **cutting: Any) -> Example:
    resized, bucket, crop = Cutting(256, 64, **cutting).fit(original)
    is_unbucketed = not cutting.get("has_buckets", True)
    return Example(Path(name), "", 1, original, resized, bucket, crop, "s", "h", is_unbucketed=is_unbucketed)


def uses(count: int) -> Iterator[Use]:
    return (Use(0, 1 + number // 10, number + 1, number % 3, number % 2) for number in range(count))


def drawing(*numbers: float) -> Callable[[], float]:
    return iter(numbers).__next__


# -- what is drawn ---------------------------------------------------------------------------------


def test_without_settings_nothing_varies() -> None:
    example = example_of(WIDE)
    assert {variant_at(example, AugmentationConfig(), 1, use) for use in uses(50)} == {(example, PLAIN)}


def test_half_of_the_uses_are_mirrored() -> None:
    example, settings = example_of(WIDE), AugmentationConfig(flip=True)
    found = Counter(variant_at(example, settings, 1, use) for use in uses(2000))
    assert set(found) == {(example, PLAIN), (mirrored(example), PLAIN)}
    assert 900 < found[example, PLAIN] < 1100


def test_a_variant_is_a_function_of_seed_and_use() -> None:
    example = example_of(Size(700, 900), has_buckets=False)
    settings = AugmentationConfig(flip=True, color=True, random_crop=True)
    straight = [variant_at(example, settings, 1, use) for use in uses(60)]
    assert straight == [variant_at(example, settings, 1, use) for use in uses(60)]
    assert straight != [variant_at(example, settings, 2, use) for use in uses(60)]
    assert len(set(straight)) == 60
    without = AugmentationConfig(flip=True, random_crop=True)
    assert [one.example for one in straight] == [variant_at(example, without, 1, use).example for use in uses(60)]


def test_a_picture_is_cut_anywhere() -> None:
    example = example_of(WIDE)  # 384 x 192 to 320 x 192
    left = Counter(variant_at(example, AugmentationConfig(random_crop=True), 3, use).example.crop for use in uses(3000))
    spare = example.resized.width - example.bucket.width
    assert spare > 20
    assert set(left) == {Offset(place, 0) for place in range(spare + 1)}
    assert max(left.values()) < 3 * 3000 / (spare + 1)


def test_without_buckets_a_window_of_the_whole_picture_is_cut() -> None:
    example = example_of(WIDE, has_buckets=False)
    settings = AugmentationConfig(random_crop=True)
    variants = [variant_at(example, settings, 1, use).example for use in uses(300)]
    assert {one.resized for one in variants} == {WIDE}
    assert {one.bucket for one in variants} == {Size(256, 256)}
    assert max(one.crop.left for one in variants) > 700 and max(one.crop.top for one in variants) > 230
    assert all(one.crop.left <= 744 and one.crop.top <= 244 for one in variants)
    small = example_of(Size(200, 400), has_buckets=False)
    assert {variant_at(small, settings, 1, use).example.resized for use in uses(30)} == {small.resized}


def test_mirrored_twice_is_the_same() -> None:
    example = replace(example_of(WIDE), crop=Offset(7, 0))
    assert mirrored(example).crop == (example.resized.width - example.bucket.width - 7, 0)
    assert mirrored(mirrored(example)) == example


def test_shares_and_ranges_of_tints() -> None:
    settings, example = AugmentationConfig(color=True), example_of(WIDE)
    tints = [variant_at(example, settings, 1, use).tint for use in uses(6000)]
    hues = [tint.hue for tint in tints if tint.hue]
    gammas = [tint.gamma for tint in tints if tint.gamma != 1]
    assert abs(len(hues) / 6000 - 0.165) < 0.02 and abs(len(gammas) / 6000 - 0.165) < 0.02
    assert -8 / 180 <= min(hues) < -7.5 / 180 and 7.5 / 180 < max(hues) <= 8 / 180
    assert 0.95 <= min(gammas) < 0.955 and 1.045 < max(gammas) <= 1.05
    assert drawn_tint(drawing(0.33)) == PLAIN


# -- faces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "face"),
    [
        ("cat_100_120_40_60.png", Face(100, 120, 40, 60)),
        ("my_cat_1_2_3_4.jpg", Face(1, 2, 3, 4)),
        ("100_120_40_60.png", None),
        ("cat_100_120_40_b.png", None),
        ("cat_100_-20_40_60.png", None),
        ("cat_0_20_40_60.png", None),
        ("cat_5_20_0_0.png", None),
        ("cat.png", None),
    ],
)
def test_the_name_tells_the_face(name: str, face: Face | None) -> None:
    assert face_of(example_of(WIDE, name)) == face


def faces_of_sd_scripts() -> list[list[float]]:
    lines = (Path(__file__).parent / "sd_scripts_faces.tsv").read_text(encoding="utf-8").splitlines()
    return [list(map(float, line.split("\t"))) for line in lines[1:]]


def test_a_face_is_cut_as_sd_scripts_cuts_it() -> None:
    rows = faces_of_sd_scripts()
    assert len(rows) == 60
    for width, height, across, down, x, y, face_width, face_height, least, most, moves, *rest in rows:
        scale, *draws = rest[:5]
        places = [*draws[2:], *draws[:2]] if moves else [draws[1], draws[0]]  # there, the height is cut first
        original, bucket = Size(int(width), int(height)), Size(int(across), int(down))
        example = Example(Path("a"), "", 1, original, original, bucket, Offset(0, 0), "", "", is_unbucketed=True)
        face = Face(int(x), int(y), int(face_width), int(face_height))
        found = cut_around(example, face, (least, most), drawing(scale, *places), moves=bool(moves))
        assert (*found.resized, *found.crop) == tuple(map(int, rest[5:])), (original, face)


def test_a_cut_around_a_face_is_never_larger_than_the_picture() -> None:
    """Where sd-scripts ends with an error, the picture is enlarged as far as it must be."""
    example = example_of(Size(200, 300), "a_100_100_50_50.png", has_buckets=False)
    settings = AugmentationConfig(face_crop_range="1,3", random_crop=True)
    for use in uses(200):
        found = variant_at(example, settings, 1, use).example
        assert found.resized == (256, 384)
        assert found.crop.left == 0 and 0 <= found.crop.top <= 128


def test_faces_count_without_buckets_only() -> None:
    settings = AugmentationConfig(face_crop_range="1,3")
    example = example_of(Size(500, 700), "a_100_100_50_50.png")
    assert variant_at(example, settings, 1, Use(0, 1, 1, 0, 0)).example == example


# -- colours ---------------------------------------------------------------------------------------


@pytest.fixture
def pixels() -> np.ndarray[Any, np.dtype[np.float32]]:
    values = np.random.default_rng(5).uniform(-1, 1, (3, 12, 9)).astype(np.float32)
    values[:, 0, 0] = 0.25  # grey
    values[:, 0, 1] = -1
    return values


@pytest.mark.parametrize("hue", [-8 / 180, -0.01, 0.02, 8 / 180])
def test_a_hue_is_that_of_hsv(pixels: np.ndarray[Any, np.dtype[np.float32]], hue: float) -> None:
    found = tinted(pixels, Tint(hue=hue))
    for row, column in np.ndindex(12, 9):
        red, green, blue = ((float(value) + 1) / 2 for value in pixels[:, row, column])
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        wanted = [2 * value - 1 for value in colorsys.hsv_to_rgb((h + hue) % 1, s, v)]
        assert np.allclose(found[:, row, column], wanted, atol=1e-5)
    assert (found.dtype, found.flags["C_CONTIGUOUS"]) == (np.float32, True)


def test_a_gamma_is_that_of_values_from_0_to_1(pixels: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    found = tinted(pixels, Tint(gamma=0.95))
    assert np.allclose((found + 1) / 2, ((pixels.astype(np.float64) + 1) / 2) ** 0.95, atol=1e-6)
    assert tinted(pixels, PLAIN) is pixels
