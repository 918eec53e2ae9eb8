"""Products of a smaller rank, against numpy's own decomposition."""

import numpy as np
import pytest

from lorasmith.lora_tools import low_rank
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.low_rank import Cut, Product, Reduced, reduced, reduced_change, stored_product

DRAWN = np.random.default_rng(1)


def drawn(*shape: int) -> Array:
    return DRAWN.standard_normal(shape).astype(np.float32)


def change_of(made: Reduced) -> Array:
    return made.product.up @ made.product.down


def best(matrix: Array, rank: int) -> Array:
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return ((left[:, :rank] * values[:rank]) @ right[:rank]).astype(np.float32)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
@pytest.mark.parametrize("rank", [1, 4, 12])
def test_the_best_product_of_a_rank(shape: tuple[int, int], rank: int) -> None:
    up, down = drawn(shape[0], 8), drawn(8, shape[1])
    for made in (reduced(Product(up, down, ()), Cut(rank=rank)), reduced_change(up @ down, Cut(rank=rank))):
        assert np.allclose(change_of(made), best(up @ down, rank), atol=1e-4)
        error = np.square(up @ down - change_of(made)).sum() / np.square(up @ down).sum()
        assert made.energy == pytest.approx(1 - error, abs=1e-5)
    assert reduced(Product(up, down, ()), Cut(rank=rank)).product.rank == min(rank, 8)


def test_both_matrices_carry_the_size() -> None:
    """Neither leaves the range of half precision where the change itself does not."""
    product = Product(drawn(12, 4) * 1e-6, drawn(4, 20) * 1e3, ())
    for made in (reduced(product, Cut(rank=4)), reduced_change(product.up @ product.down, Cut(rank=4))):
        up, down = made.product.up, made.product.down
        assert np.allclose(np.linalg.norm(up, axis=0), np.linalg.norm(down, axis=1), rtol=1e-3)


def test_limits() -> None:
    values = np.array([10.0, 5.0, 1.0, 0.0])  # squares 100, 25, 1
    ranks = [
        (Cut(rank=2), 2),
        (Cut(rank=9), 4),
        (Cut(energy=100 / 126), 1),
        (Cut(energy=0.99), 2),
        (Cut(energy=1.0), 3),
        (Cut(ratio=2), 2),
        (Cut(ratio=1), 1),
        (Cut(ratio=100), 3),
        (Cut(rank=1, ratio=100), 1),
        (Cut(rank=3, energy=0.9), 2),
    ]
    assert [cut.rank_of(values) for cut, _ in ranks] == [expected for _, expected in ranks]
    assert Cut(energy=0.5).rank_of(np.zeros(4)) == 1


def test_limits_beside_a_small_rank_count_from_the_whole_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the largest values are computed, the share that they keep is still one of all."""
    random = np.random.default_rng(2)
    parts = [random.standard_normal(shape) for shape in ((300, 6), (6, 400), (300, 400))]
    change = (parts[0] @ parts[1] + 0.5 * parts[2]).astype(np.float32)
    cuts = [Cut(rank=8), Cut(rank=8, energy=0.5), Cut(rank=8, energy=0.999), Cut(rank=8, ratio=1.2)]
    found = [reduced_change(change, cut) for cut in cuts]
    monkeypatch.setattr(low_rank, "leading", lambda *_: None)
    for made, whole in zip(found, (reduced_change(change, cut) for cut in cuts), strict=True):
        assert made.product.rank == whole.product.rank
        assert made.energy == pytest.approx(whole.energy, abs=1e-5)
        assert np.linalg.norm(change_of(made) - change_of(whole)) < 0.03 * np.linalg.norm(change_of(whole))
    first, other, *_ = (made.product.rank for made in found)
    assert first == 8 > other


def test_no_change_stays_none() -> None:
    for made in (reduced(Product(np.zeros((4, 2), np.float32), drawn(2, 4), ()), Cut(rank=2)),
                 reduced_change(np.zeros((4, 4), np.float32), Cut(rank=2))):  # fmt: skip
        assert not change_of(made).any() and np.isfinite(made.product.down).all() and made.energy == 1.0


def test_convolutions_keep_their_kernel() -> None:
    change = drawn(6, 4, 3, 3)
    made = reduced_change(change, Cut(rank=5))
    stored = stored_product(made.product, 10.0, "F32")
    assert {suffix: tensor.shape for suffix, tensor in stored.items()} == {
        "lora_up.weight": (6, 5, 1, 1),
        "lora_down.weight": (5, 4, 3, 3),
    }
    up, down = (np.frombuffer(stored[f"lora_{part}.weight"].data, np.float32) for part in ("up", "down"))
    scaled = 10.0 / 5 * (up.reshape(6, 5) @ down.reshape(5, 36))
    assert np.allclose(scaled, best(change.reshape(6, 36), 5), atol=1e-4)
