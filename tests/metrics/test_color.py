"""1 - correlation of RGB histograms against values computed by hand."""

import math

import numpy as np
import pytest

from lorasmith.metrics.color import BINS, color_losses, histogram

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def picture(*colours: tuple[int, int, int]) -> np.ndarray:
    """(1, 1, n, 3)"""
    return np.array([[colours]], dtype=np.uint8)


def place(red: int, green: int, blue: int) -> int:
    return (red * BINS + green) * BINS + blue


def test_a_colour_on_a_centre_is_one_bin() -> None:
    found = histogram(picture(RED, BLACK, BLACK, WHITE)[0])
    expected = np.zeros(512)
    expected[place(7, 0, 0)], expected[place(0, 0, 0)], expected[place(7, 7, 7)] = 0.25, 0.5, 0.25
    assert np.allclose(found, expected, atol=1e-12)


def test_a_colour_between_centres_is_shared() -> None:
    """255 / 7 is 36.43: 51 is 1.4 steps, so 0.6 of it is in bin 1 and 0.4 in bin 2."""
    found = histogram(picture((51, 0, 255))[0])
    assert found[place(1, 0, 7)] == pytest.approx(0.6)
    assert found[place(2, 0, 7)] == pytest.approx(0.4)
    assert found.sum() == pytest.approx(1)
    assert np.count_nonzero(found > 1e-12) == 2


def test_all_three_channels_share() -> None:
    found = histogram(picture((51, 51, 51))[0])
    assert found[place(1, 1, 1)] == pytest.approx(0.6**3)
    assert found[place(2, 1, 2)] == pytest.approx(0.6 * 0.4**2)


def test_two_flat_colours() -> None:
    """Each histogram is 1 in one of 512 bins: sum(h g) - 1/512 = -1/512, and sum(h²) - 1/512 = 511/512."""
    assert color_losses(picture(RED), picture(WHITE)) == [pytest.approx(1 + 1 / 511)]


def test_half_of_a_colour() -> None:
    """h has 1/2 in two bins, g all in one of them: (1/2 - 1/512) / sqrt((1/2 - 1/512) (1 - 1/512))."""
    expected = 1 - (0.5 - 1 / 512) / math.sqrt((0.5 - 1 / 512) * (1 - 1 / 512))
    assert color_losses(picture(RED, WHITE), picture(RED, RED)) == [pytest.approx(expected)]


def test_a_small_change_is_a_small_loss_everywhere() -> None:
    losses = [color_losses(picture((v, 90, 200)), picture((v + 3, 90, 200)))[0] for v in range(0, 250)]
    assert max(losses) < 0.02
    assert min(losses) > 0


def test_where_the_colours_stand_does_not_count() -> None:
    assert color_losses(picture(RED, WHITE, BLACK), picture(BLACK, RED, WHITE)) == [pytest.approx(0, abs=1e-12)]


def test_equal_pictures() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    assert color_losses(pictures, pictures) == [0.0, 0.0]


def test_even_histograms() -> None:
    """One pixel on each of the 512 centres: nothing varies, so there is no correlation but of equal ones."""
    steps = np.round(np.arange(BINS) * 255 / 7)
    grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, 8, 64, 3).astype(np.uint8)
    assert color_losses(grid, grid) == [0.0]
    assert math.isfinite(color_losses(grid, picture(RED))[0])  # 8 bits cannot be even: 36.43 is no byte
