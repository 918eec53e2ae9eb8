from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from lorasmith.data.cache import EncoderCache
from lorasmith.data.loss_inputs import MASKS, loss_masks, loss_weights
from lorasmith.data.types import LOSS_MASK, LOSS_WEIGHT, Example, Mask, Offset, Size
from tests.data.test_masks import of_file, put_mask

SIZE = Size(64, 64)
LATENTS = torch.zeros(4, 8, 8)


def example_with(mask: Mask | None, *, is_regularisation: bool = False) -> Example:
    return Example(
        Path("a.png"), "", 1, SIZE, SIZE, SIZE, Offset(0, 0), "", "", mask=mask, is_regularisation=is_regularisation
    )


def test_factors() -> None:
    examples = [example_with(None), example_with(None, is_regularisation=True)]
    assert loss_weights(examples, 1.0) == [{}, {}]
    assert [float(one[LOSS_WEIGHT]) for one in loss_weights(examples, 0.5)] == [1.0, 0.5]


def test_all_have_a_mask_or_none_has(tmp_path: Path) -> None:
    cache = EncoderCache(tmp_path / "cache")
    mask = of_file(put_mask(tmp_path / "a.png", SIZE, [255] * 32 + [0] * 32))
    without, having = example_with(None), example_with(mask)
    assert loss_masks(cache, [without, without], [LATENTS, LATENTS]) == [{}, {}]
    assert not cache.folder.exists()
    first, second = (one[LOSS_MASK] for one in loss_masks(cache, [without, having], [LATENTS, LATENTS]))
    assert torch.equal(first, torch.ones(8, 8))
    assert torch.equal(second, torch.tensor([1.0] * 4 + [0.0] * 4)[:, None].expand(8, 8))


def test_masks_are_kept(tmp_path: Path) -> None:
    """Under a key of the mask's bytes, so that the file is not read again, and a damaged entry is made anew."""
    cache = EncoderCache(tmp_path / "cache")
    example = example_with(of_file(put_mask(tmp_path / "a.png", SIZE, 51)))
    (before,) = loss_masks(cache, [example], [LATENTS])
    (kept,) = (tmp_path / "cache" / MASKS).iterdir()
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    assert torch.equal(loss_masks(cache, [example], [LATENTS])[0][LOSS_MASK], before[LOSS_MASK])
    assert example.mask is not None
    moved = replace(example, mask=example.mask._replace(file=tmp_path / "b.png"))
    kept.write_bytes(b"damaged")
    assert torch.equal(loss_masks(cache, [moved], [LATENTS])[0][LOSS_MASK], before[LOSS_MASK])
    assert [path.name for path in cache.set_aside] == [kept.name + ".damaged"]


def test_masks_have_the_shape_of_the_latents(tmp_path: Path) -> None:
    Image.new("L", (96, 64), 255).save(tmp_path / "a.png")
    size = Size(96, 64)
    example = replace(example_with(of_file(tmp_path / "a.png")), original=size, resized=size, bucket=size)
    (found,) = loss_masks(EncoderCache(tmp_path / "cache"), [example], [torch.zeros(4, 8, 12)])
    assert found[LOSS_MASK].shape == (8, 12)
