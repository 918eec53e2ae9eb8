"""Forms of storage: the error of a weight, and the memory that it takes."""

import hashlib

import pytest
import torch
from torch import Tensor

from lorasmith.engine import codecs
from lorasmith.engine.codecs import CODECS

# Relative error of normal weights as measured, and bytes for each weight of 640 inputs.
FORMS = {
    "auto": (0.0, 4.0),
    "bf16": (0.002, 2.0),
    "fp8": (0.027, 1.0),
    "int8": (0.008, 1.0),
    "w8a8": (0.008, 1.0),
    "nf4": (0.095, 0.5 + 4 / 64),
}


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("form", CODECS)
def test_error_and_memory(form: str, scale: float) -> None:
    weight = normal(64, 640) * scale
    parts = CODECS[form].encode(weight)
    decoded = CODECS[form].decode(parts, weight.shape, torch.float32)
    error, size = FORMS[form]
    found = (decoded - weight).norm() / weight.norm()
    assert error / 2 <= found <= error
    bytes_of_weights = sum(part.numel() * part.element_size() for name, part in parts.items())
    assert size <= bytes_of_weights / weight.numel() <= size + 4 / 640


@pytest.mark.parametrize("form", CODECS)
@pytest.mark.parametrize("shape", [(3, 7), (5, 4, 3, 3)])
def test_any_shape_and_a_row_of_zeros(form: str, shape: tuple[int, ...]) -> None:
    weight = normal(*shape).to(torch.bfloat16)
    weight[1] = 0
    decoded = CODECS[form].decode(CODECS[form].encode(weight), weight.shape, weight.dtype)
    assert (decoded.shape, decoded.dtype) == (weight.shape, weight.dtype)
    assert torch.equal(decoded[1], weight[1])
    assert torch.isfinite(decoded).all()


def test_nf4_is_that_of_bitsandbytes() -> None:
    """The bytes that bitsandbytes 0.50.2 makes of this weight (quantize_4bit, blocks of 64)."""
    stored = CODECS["nf4"].encode((torch.arange(640 * 64) % 977 - 488).view(640, 64) / 9770)["stored"]
    digest = hashlib.sha256(stored.contiguous().numpy().tobytes()).hexdigest()
    assert digest == "ff42bdfdd8d582f0f4f69985346f4b6d8c7661b8908fa89c095894e74d2a548e"


@pytest.mark.parametrize("shape", [(7, 30), (5, 4, 3, 3), (64, 130)])
@pytest.mark.parametrize("form", CODECS)
def test_a_weight_that_is_encoded_and_decoded_in_pieces_has_the_same_bits(
    form: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a piece's size: of a row, of some blocks, of more than there is."""
    weight = normal(*shape).to(torch.bfloat16)
    whole = CODECS[form].encode(weight)
    decoded = CODECS[form].decode(whole, weight.shape, weight.dtype)
    for piece in (1, 100, 1000):
        monkeypatch.setattr(codecs, "PIECE", piece)
        found = CODECS[form].encode(weight)
        assert found.keys() == whole.keys()
        assert all(torch.equal(found[name].float(), part.float()) for name, part in whole.items())
        assert torch.equal(CODECS[form].decode(whole, weight.shape, weight.dtype), decoded)
