"""Both libraries give the same products, of matrices in any order."""

import pytest
import torch
from torch import Tensor

from lorasmith.engine import cpu_products
from lorasmith.engine.cpu_products import integer_product_on, product, transposed_product

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("is_intel", [True, False])
@pytest.mark.parametrize("rows", [(5,), (2, 5), (1,)])
def test_products(is_intel: bool, rows: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_products, "_is_wide_intel", is_intel)
    monkeypatch.setattr(cpu_products, "_MANY_WEIGHTS", 0)
    left, right, bias = numbers(*rows, 48), numbers(48, 32), numbers(32)
    turned = right.t().contiguous()  # (32, 48)
    expected = (left.double() @ right.double()).float()
    for found in (product(left, right), product(left, turned.t()), transposed_product(left, turned)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for found in (product(left, right, bias), transposed_product(left, turned, bias)):
        torch.testing.assert_close(found, expected + bias, rtol=1e-5, atol=1e-5)
    spread = left.transpose(0, -1).contiguous().transpose(0, -1)
    torch.testing.assert_close(product(spread, right), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_exact", ["as here", "not exact"])
@pytest.mark.parametrize("count", [48, 1024, 2500])
def test_sums_of_integers_are_exact_on_every_processor(
    count: int, is_exact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without VNNI oneDNN's are not, where numbers of neighbouring columns are large: on such a processor all of them,
    elsewhere the way that is taken there."""
    if is_exact == "not exact":
        monkeypatch.setattr(cpu_products, "_adds_integers_exactly", lambda: False)
    multiply, generator = integer_product_on(torch.device("cpu")), torch.Generator().manual_seed(1)
    for low, high in ((-127, 128), (120, 128)):
        left, right = (
            torch.randint(low, high, (rows, count), generator=generator, dtype=torch.int8) for rows in (20, 32)
        )
        assert torch.equal(multiply(left, right).long(), left.long() @ right.long().t())
