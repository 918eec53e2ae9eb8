"""A frozen layer and its LoRA in one function: the numbers of the formula, and gradients that belong to a pass."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorasmith.adapters import lora
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.engine.cpu import speed_up_frozen
from tests.adapters.making import attached_to_all
from tests.engine.stored_models import store

BASES = {
    "linear": (lambda: nn.Linear(256, 320), (2, 5, 256)),
    "no bias": (lambda: nn.Linear(256, 320, bias=False), (7, 256)),
    "pixels": (lambda: nn.Conv2d(256, 320, 1), (3, 256, 4, 5)),
    "pixels, no bias": (lambda: nn.Conv2d(256, 320, 1, bias=False), (1, 256, 4, 5)),
    "window": (lambda: nn.Conv2d(6, 10, 3, padding=1), (3, 6, 4, 5)),
}
FORMS = ("plain", "for a CPU", "in 8 bits")


def trained(kind: str, dtype: torch.dtype = torch.float32, form: str = "for a CPU", **settings: Any) -> Any:
    """A model of one layer with a pair of random numbers, the adapter, an input."""
    generator = torch.Generator().manual_seed(7)
    make, shape = BASES[kind]
    torch.manual_seed(3)
    model = nn.Sequential(make().to(dtype).requires_grad_(False))
    if form == "in 8 bits":
        store(model, "fp8")
    adapter = attached_to_all(model, rank=3, alpha=1.5, **settings)
    adapter.flat.normal_(generator=generator)
    if form == "for a CPU":
        speed_up_frozen(model)
    return model, adapter, torch.randn(shape, generator=generator).to(dtype).requires_grad_()


def results(model: nn.Module, adapter: FlatAdapter, x: Tensor, *, opened: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the gradients of the input and of the adapter; twice, since gradients are added up."""
    adapter.clear_gradient()
    x.grad = None
    for seed in (1, 2):
        torch.manual_seed(seed)
        with adapter.opened() if opened else nullcontext():
            y = model(x)
            y.float().square().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad.clone(), adapter.gradient().clone()


@pytest.mark.parametrize("layers", ["cpu", "elsewhere"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", BASES)
def test_a_pass_gives_what_the_formula_gives(
    kind: str, dtype: torch.dtype, form: str, layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layers == "elsewhere":
        monkeypatch.setattr(lora, "CpuLoraLayer", lora.LoraLayer)
    for dropout in (0.0, 0.4):
        model, adapter, x = trained(kind, dtype, form, dropout=dropout)
        adapter.set_training(True)
        expected, found = (results(model, adapter, x, opened=opened) for opened in (False, True))
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        for one, other in zip(found, expected, strict=True):
            assert (one.float() - other.float()).norm() <= tolerance * other.float().norm()


@pytest.mark.parametrize("kind", BASES)
def test_checkpointing_gives_the_same_bits(kind: str) -> None:
    model, adapter, x = trained(kind, torch.bfloat16)
    plain = results(model, adapter, x, opened=True)
    again = results(lambda x: checkpoint(model, x, use_reentrant=False), adapter, x, opened=True)
    assert all(torch.equal(one, other) for one, other in zip(again, plain, strict=True))


def test_an_input_without_a_gradient_gets_none() -> None:
    """As a caption's embedding: the pair learns from it all the same."""
    for kind in ("linear", "pixels"):
        model, adapter, x = trained(kind)
        _, _, expected = results(model, adapter, x, opened=True)
        x.requires_grad_(False).grad = None
        adapter.clear_gradient()
        for _ in range(2):
            with adapter.opened():
                model(x).square().sum().backward()
        assert x.grad is None and torch.equal(adapter.gradient(), expected)


def test_a_backward_pass_after_its_pass_is_an_error() -> None:
    """Its gradients would be lost."""
    model, adapter, x = trained("linear", torch.bfloat16)
    with adapter.opened():
        y = model(x)
    with pytest.raises(AssertionError, match="outside of the pass"):
        y.sum().backward()
