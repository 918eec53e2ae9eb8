"""The largest singular values alone, against numpy's whole decomposition."""

from typing import Any

import numpy as np
import pytest

from lorasmith.lora_tools import leading as module
from lorasmith.lora_tools.leading import Leading, Matrix, leading

ROWS, COLUMNS, COUNT = 300, 420, 8


def matrix(kind: str) -> Matrix:
    """A change with singular values of a kind."""
    random = np.random.default_rng(3)
    sides = (np.linalg.qr(random.standard_normal((side, ROWS)))[0] for side in (ROWS, COLUMNS))
    left, right = sides
    falling = np.arange(1, ROWS + 1, dtype=np.float64)
    noise = random.standard_normal((ROWS, COLUMNS))
    few = (left[:, :3] * [3.0, 2.0, 1.0]) @ right[:, :3].T
    found: dict[str, Any] = {
        "noise": noise,
        "few in noise": few + 1e-3 * noise,
        "few": few,
        "more than asked for": left[:, : 2 * COUNT] @ right[:, : 2 * COUNT].T,
        "all equal": left @ right.T,
        "falling": (left / falling) @ right.T,
        "falling fast": (left * 0.5**falling) @ right.T,
        "falling slowly": (left / falling**0.25) @ right.T,
        "none": np.zeros((ROWS, COLUMNS)),
        "huge": 1e30 * noise,
    }
    return np.asarray(found[kind])


def largest(change: Matrix, count: int = COUNT) -> Leading | None:
    return leading(change, count, float(np.sum(np.square(change))))


@pytest.mark.parametrize("is_tall", [False, True])
@pytest.mark.parametrize(
    "kind",
    ["noise", "few in noise", "few", "more than asked for", "all equal", "falling", "falling fast", "falling slowly",
     "none", "huge"],
)  # fmt: skip
def test_the_product_is_as_near_as_the_best(kind: str, is_tall: bool) -> None:
    change = matrix(kind).T if is_tall else matrix(kind)
    found = largest(change)
    assert found is not None
    values = np.linalg.svd(change, compute_uv=False)
    best = np.sqrt(np.sum(np.square(values[COUNT:])))
    error = np.linalg.norm(change - (found.left * found.values) @ found.right)
    assert error <= (1 + module.TOLERANCE) * best + 1e-6 * values[0]
    assert np.allclose(found.values, values[:COUNT], rtol=0.01, atol=1e-6 * values[0])
    for vectors in (found.left.T, found.right):
        assert vectors.shape == (COUNT, vectors.shape[1])
        kept = vectors[found.values > 1e-6 * values[0]]
        assert np.allclose(kept @ kept.T, np.eye(len(kept)), atol=1e-9)


def test_where_all_values_cost_as_little_or_the_space_does_not_suffice_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert largest(matrix("noise"), ROWS // 4) is None
    monkeypatch.setattr(module, "TOLERANCE", 1e-12)
    assert largest(matrix("noise")) is None


def test_the_same_matrix_gives_the_same_bytes() -> None:
    first, second = (largest(matrix("few in noise")) for _ in range(2))
    assert first is not None and second is not None
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
