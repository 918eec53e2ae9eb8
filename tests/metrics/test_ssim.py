"""1 - SSIM against values computed by hand."""

import numpy as np
import pytest

from lorasmith.metrics.ssim import WINDOW, ssim_losses


def grey(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (1, H, W, 3)"""
    return np.repeat(values[None, :, :, None], 3, axis=3).astype(np.uint8)


def by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """The formula of the paper for a single window."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    n = x.size
    mx, my = x.mean(), y.mean()
    vx, vy = ((x - mx) ** 2).sum() / (n - 1), ((y - my) ** 2).sum() / (n - 1)
    cov = ((x - mx) * (y - my)).sum() / (n - 1)
    return 1 - (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def test_a_picture_of_one_window() -> None:
    x = np.arange(WINDOW * WINDOW, dtype=float).reshape(WINDOW, WINDOW) * 5
    y = x.T + 3
    assert ssim_losses(grey(x), grey(y)) == [pytest.approx(by_hand(x, y), abs=1e-9)]


def test_two_flat_pictures_differ_in_brightness_alone() -> None:
    """Variances are 0, so what is left is (2 a b + C1) / (a² + b² + C1)."""
    a, b, c1 = 50.0, 100.0, 2.55**2
    found = ssim_losses(grey(np.full((9, 12), a)), grey(np.full((9, 12), b)))
    assert found == [pytest.approx(1 - (2 * a * b + c1) / (a * a + b * b + c1), abs=1e-9)]


def test_black_and_white_have_nothing_in_common() -> None:
    (found,) = ssim_losses(grey(np.zeros((16, 16))), grey(np.full((16, 16), 255)))
    assert found == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize("side", [3, 4, 6])
def test_small_pictures_are_seen_through_a_smaller_window(side: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (side, side)).astype(float)
    y = 255 - x
    window = side - 1 + side % 2
    spots = range(side - window + 1)
    expected = np.mean([by_hand(x[i : i + window, j : j + window], y[i : i + window, j : j + window])
                        for i in spots for j in spots])  # fmt: skip
    assert ssim_losses(grey(x), grey(y)) == [pytest.approx(float(expected), abs=1e-9)]


def test_equal_pictures_and_each_pair_alone() -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    assert ssim_losses(pictures, pictures) == pytest.approx([0, 0, 0], abs=1e-9)
    mixed = pictures.copy()
    mixed[1] = 255 - mixed[1]
    first, second, third = ssim_losses(pictures, mixed)
    assert (first, third) == pytest.approx((0, 0), abs=1e-9)
    assert 1 < second <= 2
