"""1 - cosine of embeddings, and what a picture goes through before the model, against values computed by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lorasmith.metrics.clip import Preparation, embeddings, prepared, semantic_losses

PLAIN = Preparation(
    shortest_edge=None, size=None, resample="bicubic", crop=None, mean=(0.0, 0.0, 0.0), deviation=(1.0, 1.0, 1.0)
)


class MeanColour:
    """An encoder whose embedding is known: the mean of each channel."""

    preparation = PLAIN

    def __call__(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3))


def flat(*colour: int) -> np.ndarray:
    return np.full((4, 5, 3), colour, dtype=np.uint8)


def test_cosines_by_hand() -> None:
    one = embeddings(MeanColour(), [flat(255, 0, 0), flat(100, 0, 0), flat(255, 255, 0)])
    other = embeddings(MeanColour(), [flat(0, 255, 0), flat(200, 0, 0), flat(255, 0, 0)])
    assert semantic_losses(one, other) == pytest.approx([1, 0, 1 - 1 / math.sqrt(2)], abs=1e-6)


def test_equal_pictures() -> None:
    random = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    found = embeddings(MeanColour(), list(random))
    assert semantic_losses(found, found) == pytest.approx([0, 0], abs=1e-12)


def test_pictures_of_different_sizes_meet() -> None:
    found = embeddings(MeanColour(), [flat(9, 20, 30), np.full((8, 3, 3), (9, 20, 30), dtype=np.uint8)])
    assert found.shape == (2, 3)
    assert torch.allclose(found[0], found[1])


def test_mean_and_deviation() -> None:
    how = Preparation(None, None, "bicubic", None, (0.5, 0.25, 0.0), (0.5, 0.25, 2.0))
    assert prepared(flat(255, 0, 255), how)[:, 0, 0].tolist() == pytest.approx([1, -1, 0.5])


def test_the_shortest_edge_and_the_middle() -> None:
    """A picture of 4 x 8 doubled is 8 x 16; of it the middle 8 x 8 is what was in columns 2 to 5."""
    picture = np.zeros((4, 8, 3), dtype=np.uint8)
    picture[:, 2:6] = 200
    how = Preparation(8, None, "bilinear", (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    found = prepared(picture, how)
    assert found.shape == (3, 8, 8)
    assert found[:, :, 2:6].unique().tolist() == pytest.approx([200 / 255])


@pytest.mark.parametrize("size", [(24, 32), (90, 70)])
def test_scaling_is_pillow_s(size: tuple[int, int]) -> None:
    """The models were trained on what Pillow made of pictures."""
    picture = np.random.default_rng(3).integers(70, 180, (60, 48, 3), dtype=np.uint8)  # it cuts to 0..255 in between
    found = prepared(picture, Preparation(None, size, "bicubic", None, (0.0,) * 3, (1.0,) * 3))
    theirs = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(found.numpy() * 255 - theirs).max() <= 1.01


def test_a_crop_larger_than_the_picture_is_black_around_it() -> None:
    found = prepared(flat(255, 255, 255), Preparation(None, None, "bicubic", (6, 9), (0.0,) * 3, (1.0,) * 3))
    assert found.shape == (3, 6, 9)
    assert found[0].sum() == 20
    assert found[0, 1:5, 2:7].sum() == 20
