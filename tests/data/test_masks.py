"""Masks: which picture has which, and what a latent's share of it is."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lorasmith.data.augmentation import mirrored
from lorasmith.data.buckets import Cutting
from lorasmith.data.folder import PictureFolder, Scan, scan
from lorasmith.data.masks import MaskFiles, loss_mask, mask_key, same_shape, with_masks
from lorasmith.data.types import Example, Mask, Offset, Size
from lorasmith.errors import DatasetError
from tests.data.drawing import put_picture, size_of


def masked(root: Path, masks: Path | None = None, **options: Any) -> Scan:
    how = {"skip_bad": False, "check_pixels": True, **options}
    how.pop("takes_alpha", None)
    found = scan(PictureFolder(root), Cutting(128, 32), trigger_word="", **how)
    return with_masks(found, root, masks, takes_alpha=options.get("takes_alpha", False), seen=found.seen, **how)


def put_mask(path: Path, size: tuple[int, int], rows: list[int] | int = 255) -> Path:
    """A mask whose rows have these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((size[1], size[0]), 0, dtype=np.uint8)
    values[:] = np.asarray(rows, dtype=np.uint8).reshape(-1, 1)
    Image.fromarray(values).save(path)
    return path


# -- which -----------------------------------------------------------------------------------------


def test_nothing_asked_for_is_nothing_changed(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png", number=1)
    found = scan(PictureFolder(tmp_path), Cutting(128, 32), trigger_word="", skip_bad=False, check_pixels=True)
    assert masked(tmp_path) == found


def test_files_are_found_by_the_name_of_the_picture(tmp_path: Path) -> None:
    pictures, masks = tmp_path / "pictures", tmp_path / "masks"
    for name in ("3_cat/a.png", "3_cat/b.png", "2_dog/a.jpg"):
        put_picture(pictures / name, number=1)
    size = size_of(pictures / "3_cat" / "a.png")
    for name in ("3_cat/a.webp", "a.png", "b.png"):
        put_mask(masks / name, size)
    found = masked(pictures, masks)
    named = {one.image.relative_to(pictures).as_posix(): one.mask for one in found.examples}
    files = {name: None if mask is None else mask.file.relative_to(masks).as_posix() for name, mask in named.items()}
    assert files == {"3_cat/a.png": "3_cat/a.webp", "3_cat/b.png": "b.png", "2_dog/a.jpg": "a.png"}
    assert not any(mask.is_alpha for mask in named.values() if mask is not None)
    assert set(found.seen) >= {str(mask.file) for mask in named.values() if mask is not None}


def test_a_file_before_the_alpha_channel(tmp_path: Path) -> None:
    pictures, masks = tmp_path / "pictures", tmp_path / "masks"
    put_picture(pictures / "a.png", number=1)
    put_picture(pictures / "b.png", number=2)
    put_mask(masks / "a.png", size_of(pictures / "a.png"))
    first, second = masked(pictures, masks, takes_alpha=True).examples
    assert first.mask is not None and first.mask.file == masks / "a.png"
    assert second.mask == Mask(second.image, second.image_sha256, is_alpha=True)


def test_a_picture_without_a_mask_is_a_problem(tmp_path: Path) -> None:
    pictures, masks = tmp_path / "pictures", tmp_path / "masks"
    put_picture(pictures / "a.png", number=1)
    put_picture(pictures / "b.png", number=2)
    put_mask(masks / "a.png", size_of(pictures / "a.png"))
    with pytest.raises(DatasetError) as caught:
        masked(pictures, masks)
    (problem,) = caught.value.fields["problems"]
    assert (caught.value.code, problem["reason"]) == ("dataset_problems", "mask_missing")
    assert problem["path"] == str(pictures / "b.png")
    left = masked(pictures, masks, skip_bad=True)
    assert [one.image.name for one in left.examples] == ["a.png"]
    assert [one.reason for one in left.problems] == ["mask_missing"]
    (masks / "a.png").unlink()
    with pytest.raises(DatasetError, match="dataset_nothing_left"):
        masked(pictures, masks, skip_bad=True)


def test_a_regularisation_picture_needs_no_mask(tmp_path: Path) -> None:
    put_picture(tmp_path / "pictures" / "a.png", number=1)
    (tmp_path / "masks").mkdir()
    how: dict[str, Any] = {"skip_bad": False, "check_pixels": True}
    source = PictureFolder(tmp_path / "pictures", is_regularisation=True)
    found = scan(source, Cutting(128, 32), trigger_word="", **how)
    (example,) = with_masks(
        found, source.folder, tmp_path / "masks", takes_alpha=False, seen=found.seen, **how
    ).examples
    assert example.mask is None


def test_a_mask_that_cannot_be_used_is_a_problem(tmp_path: Path) -> None:
    put_picture(tmp_path / "pictures" / "a.png", number=1)
    put_mask(tmp_path / "masks" / "a.png", (64, 200))
    with pytest.raises(DatasetError) as caught:
        masked(tmp_path / "pictures", tmp_path / "masks")
    assert [one["reason"] for one in caught.value.fields["problems"]] == ["mask_shape"]
    (tmp_path / "masks" / "a.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError) as caught:
        masked(tmp_path / "pictures", tmp_path / "masks")
    assert [one["path"] for one in caught.value.fields["problems"]] == [str(tmp_path / "masks" / "a.png")]
    with pytest.raises(DatasetError, match="masks_missing"):
        masked(tmp_path / "pictures", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("picture", "mask", "same"),
    [
        ((512, 512), (512, 512), True),
        ((1000, 667), (500, 333), True),  # half of it, rounded down
        ((1000, 667), (500, 334), True),
        ((1000, 667), (500, 340), False),
        ((512, 768), (768, 512), False),
    ],
)
def test_shapes(picture: tuple[int, int], mask: tuple[int, int], same: bool) -> None:
    assert same_shape(Size(*picture), Size(*mask)) is same


def test_hidden_files_and_other_files_are_no_masks(tmp_path: Path) -> None:
    put_mask(tmp_path / ".a.png", (64, 64))
    (tmp_path / "a.txt").write_text("a")
    assert MaskFiles.found_in(tmp_path).by_name == {}


# -- what ------------------------------------------------------------------------------------------


def example_of(mask: Mask, original: Size, resized: Size, bucket: Size, crop: Offset) -> Example:
    return Example(mask.file, "", 1, original, resized, bucket, crop, "", "", mask=mask)


def of_file(path: Path, *, is_alpha: bool = False) -> Mask:
    return Mask(path, hashlib.sha256(path.read_bytes()).hexdigest(), is_alpha)


def test_each_latent_has_the_mean_of_its_area(tmp_path: Path) -> None:
    """Of the part that the picture is cut to: 8 rows of latents of 8 pixels each, below the first 16 pixels."""
    values = [200] * 16 + [255] * 16 + [0] * 8 + [100] * 4 + [0] * 4 + [0] * 31 + [255] + [0] * 16
    mask = of_file(put_mask(tmp_path / "a.png", (64, 96), values))
    size = Size(64, 96)
    found = loss_mask(example_of(mask, size, size, Size(64, 64), Offset(0, 16)), mask, Size(8, 8))
    expected = [1, 1, 0, 50 / 255, 0, 0, 0, 1 / 8]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.repeat(np.array(expected)[:, None], 8, axis=1), rtol=1e-6)


def test_a_mask_of_another_size_is_cut_in_the_same_place(tmp_path: Path) -> None:
    """Half as large as the picture, which is scaled to a quarter."""
    mask = of_file(put_mask(tmp_path / "a.png", (128, 128), [255] * 32 + [0] * 96))
    found = loss_mask(example_of(mask, Size(256, 256), Size(64, 64), Size(64, 32), Offset(0, 8)), mask, Size(8, 4))
    np.testing.assert_allclose(found[:, 0], [1, 0, 0, 0], atol=1e-6)


def test_the_red_channel_and_the_alpha_channel(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (64, 64), (255, 0, 0, 51))
    picture.save(tmp_path / "a.png")
    size, alone = Size(64, 64), Offset(0, 0)
    alpha = of_file(tmp_path / "a.png", is_alpha=True)
    found = loss_mask(example_of(alpha, size, size, size, alone), alpha, Size(8, 8))
    np.testing.assert_allclose(found, 0.2, rtol=1e-6)
    picture.convert("RGB").save(tmp_path / "b.png")
    for is_alpha in (False, True):  # red, and no alpha channel
        mask = of_file(tmp_path / "b.png", is_alpha=is_alpha)
        assert (loss_mask(example_of(mask, size, size, size, alone), mask, Size(8, 8)) == 1).all()
    Image.new("RGB", (64, 64), (0, 255, 255)).save(tmp_path / "c.png")
    other = of_file(tmp_path / "c.png")
    assert (loss_mask(example_of(other, size, size, size, alone), other, Size(8, 8)) == 0).all()


def test_a_mask_that_was_changed_since(tmp_path: Path) -> None:
    mask = of_file(put_mask(tmp_path / "a.png", (64, 64)))
    put_mask(tmp_path / "a.png", (64, 64), 7)
    size = Size(64, 64)
    with pytest.raises(DatasetError) as caught:
        loss_mask(example_of(mask, size, size, size, Offset(0, 0)), mask, Size(8, 8))
    assert caught.value.fields["problems"][0]["reason"] == "picture_changed"


def test_its_key_has_all_that_it_depends_on(tmp_path: Path) -> None:
    mask, size, latents = Mask(tmp_path, "ab", False), Size(64, 64), Size(8, 8)
    example = example_of(mask, size, size, size, Offset(0, 0))
    keys = {mask_key(example, mask, latents), mask_key(example, mask, Size(4, 8))}
    keys |= {mask_key(example, other, latents) for other in (Mask(tmp_path, "cd", False), Mask(tmp_path, "ab", True))}
    for changed in ({"resized": Size(65, 64)}, {"bucket": Size(32, 64)}, {"crop": Offset(1, 0)}):
        keys.add(mask_key(replace(example, **changed), mask, latents))
    assert len(keys) == 7
    assert mask_key(replace(example, caption="x"), mask, latents) in keys


def test_the_mask_of_a_mirrored_picture_is_mirrored(tmp_path: Path) -> None:
    put_picture(tmp_path / "pictures" / "a.png", 200, 128, number=1)
    values = np.tile(np.arange(200, dtype=np.uint8), (128, 1))
    (tmp_path / "masks").mkdir()
    Image.fromarray(values).save(tmp_path / "masks" / "a.png")
    (example,) = masked(tmp_path / "pictures", tmp_path / "masks").examples
    example = replace(example, crop=Offset(3, 0))
    assert example.mask is not None
    size = Size(example.bucket.width // 8, example.bucket.height // 8)
    plain, turned = (loss_mask(one, example.mask, size) for one in (example, mirrored(example)))
    assert np.array_equal(plain[:, ::-1], turned)
    assert not np.array_equal(plain, turned)
    assert mask_key(example, example.mask, size) != mask_key(mirrored(example), example.mask, size)
