"""Training computes the formula of each kind, in layers of every form: with `delta` added to the weight, a plain layer
gives the same outputs and gradients."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from lorasmith.adapters import ADAPTERS, adapter_kind
from lorasmith.adapters.base import AdapterKind, LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.targets import TargetModule

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "loha": ("loha", {}),
    "lokr": ("lokr", {}),
    "lokr, factor 2": ("lokr", {"factor": 2}),
    "lokr, both": ("lokr", {"decompose_both": True}),
    "lokr, full": ("lokr", {"full_matrix": True}),
    "dora": ("dora", {}),
}
FORMS = {
    "linear": (lambda: nn.Linear(24, 18), (2, 5, 24)),
    "rows of rows": (lambda: nn.Linear(24, 18), (2, 5, 3, 24)),
    "one row": (lambda: nn.Linear(24, 18), (24,)),
    "wide": (lambda: nn.Linear(16, 72, bias=False), (3, 16)),
    "pixelwise": (lambda: nn.Conv2d(24, 18, 1), (2, 24, 5, 4)),
    "convolution": (lambda: nn.Conv2d(24, 18, 3, stride=2, padding=1), (2, 24, 7, 6)),
    "strided": (lambda: nn.Conv2d(24, 18, 1, stride=2), (2, 24, 6, 5)),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> AdapterKind:
    return adapter_kind(*KINDS[request.param])


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(kind: AdapterKind, form: str, *, dropout: float = 0.0) -> tuple[nn.Module, nn.Module, FlatAdapter, Tensor]:
    """A frozen layer, the same with an adapter that has moved, the adapter, and an input."""
    generator = torch.Generator().manual_seed(7)
    make, shape = FORMS[form]
    base = make().requires_grad_(False)
    for parameter in base.parameters():
        parameter.normal_(0, 0.3, generator=generator)
    model = nn.Sequential(base)
    target = TargetModule("denoiser.0", "denoiser", model, "0")
    adapter = FlatAdapter.attach(kind, [target], {target.name: LayerSettings(2, 3.0, dropout)}, seed=1)
    with torch.no_grad():
        for view in adapter.parameters("denoiser"):
            view.add_(torch.randn(view.shape, generator=generator), alpha=0.3)
    return base, model, adapter, torch.randn(shape, generator=generator)


def changed_weight(base: nn.Module, adapter: FlatAdapter, multiplier: float = 1.0) -> Tensor:
    tensors = {name.removeprefix("denoiser.0."): tensor for name, tensor in adapter.tensors().items()}
    weight = base.get_parameter("weight")
    return weight + multiplier * adapter.kind.delta(weight, tensors, adapter.layers["denoiser.0"].settings)


def test_every_kind_is_here() -> None:
    assert {name for name, _ in KINDS.values()} == set(ADAPTERS)


@pytest.mark.parametrize("multiplier", [1.0, 0.6, 0.0])
def test_the_layer_is_one_with_the_changed_weight(kind: AdapterKind, form: str, multiplier: float) -> None:
    base, model, adapter, x = made(kind, form)
    adapter.set_multiplier(multiplier)
    expected = functional_call(base, {"weight": changed_weight(base, adapter, multiplier)}, (x,))
    torch.testing.assert_close(model(x), expected)
    assert multiplier == 0 or not torch.allclose(model(x), base(x), rtol=0.01)


def test_dropout_acts_on_the_inputs_of_the_change(kind: AdapterKind, form: str) -> None:
    base, model, adapter, x = made(kind, form, dropout=0.5)
    adapter.set_training(True)
    torch.manual_seed(5)
    y = model(x)
    torch.manual_seed(5)
    kept = nn.functional.dropout(x, 0.5)
    change = functional_call(base, {"weight": changed_weight(base, adapter)}, (kept,)) - base(kept)
    torch.testing.assert_close(y, base(x) + change)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_numbers_stay_float32_under_a_base_of_less(kind: AdapterKind, form: str, precision: torch.dtype) -> None:
    base, model, adapter, x = made(kind, form)
    base.to(precision)
    rounded = {name: parameter.float() for name, parameter in base.named_parameters()}
    exact = functional_call(base, {**rounded, "weight": changed_weight(base, adapter)}, (x,))
    y = model(x.to(precision))
    assert y.dtype == precision
    assert (y - exact).norm() / exact.norm() < 0.02
    y.float().square().sum().backward()
    assert adapter.flat.dtype == adapter.gradient().dtype == torch.float32
    assert all(view.grad is not None and view.grad.any() for view in adapter.parameters("denoiser"))


def test_gradients_are_those_of_the_formula(kind: AdapterKind, form: str) -> None:
    base, model, adapter, x = made(kind, form)
    x.requires_grad_()
    model(x).square().sum().backward()
    found, of_input = adapter.gradient().clone(), x.grad
    adapter.clear_gradient()
    x.grad = None
    views = dict(zip(suffixes(adapter), adapter.parameters("denoiser"), strict=True))
    weight = base.get_parameter("weight")
    if kind.name == "dora":  # its norm counts as a constant
        moved = weight + 1.5 * (views["lora_up.weight"] @ views["lora_down.weight"]).view(weight.shape)
        norms = moved.detach().transpose(0, 1).flatten(1).norm(dim=1)
        changed = moved * (views["dora_scale"].flatten() / norms).view(-1, *[1] * (weight.ndim - 2))
    else:
        changed = weight + kind.delta(weight, views, adapter.layers["denoiser.0"].settings)
    functional_call(base, {"weight": changed}, (x,)).square().sum().backward()
    torch.testing.assert_close(found, adapter.gradient(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(of_input, x.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradient_checkpointing_gives_the_same_bits(kind: AdapterKind, form: str, dropout: float) -> None:
    _, model, adapter, x = made(kind, form, dropout=dropout)
    adapter.set_training(True)
    x.requires_grad_()
    found = []
    for run in (model, partial(checkpoint, model, use_reentrant=False)):
        adapter.clear_gradient()
        x.grad = None
        torch.manual_seed(5)
        run(x).square().sum().backward()
        found.append((adapter.gradient().clone(), x.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][0].any()


def suffixes(adapter: FlatAdapter) -> list[str]:
    return [name.removeprefix("denoiser.0.") for name in adapter.tensors()]
