"""Layers that share an input: joined they give what they give apart, and they stay apart where they must."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.adapters.lora import Lora
from lorasmith.engine.cpu import speed_up_frozen
from lorasmith.targets import TargetModule

NAMES = ("q", "k", "v")


class Attention(nn.Module):
    """Calls its layers one after the other with the same input."""

    q: Any
    k: Any
    v: Any

    def __init__(self, outputs: tuple[int, ...] = (320, 320, 320), *, bias: bool = False) -> None:
        super().__init__()
        for name, size in zip(NAMES, outputs, strict=True):
            setattr(self, name, nn.Linear(256, size, bias=bias))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        result: Tensor = q.sum(-1) * k.square().sum(-1) + v.sin().sum(-1)
        return result


def attached(model: Attention, ranks: tuple[int, ...] = (3, 3, 3), group_of: Any = None, **dropouts: float) -> Any:
    targets = [TargetModule(f"d.{name}", "d", model, name, "d") for name in NAMES]
    pairs = zip(targets, ranks, strict=True)
    settings = {target.name: LayerSettings(rank, 1.5, **dropouts) for target, rank in pairs}
    group = {} if group_of is None else {"group_of": group_of}
    adapter = FlatAdapter.attach(Lora(), targets, settings, seed=1, **group)
    adapter.flat.normal_(generator=torch.Generator().manual_seed(7))
    adapter.set_training(True)
    return adapter


def gradients(model: nn.Module, adapter: FlatAdapter, x: Tensor, run: Any = None) -> tuple[Tensor, ...]:
    adapter.clear_gradient()
    x.grad = None
    with adapter.opened():
        y = (model if run is None else run)(x)
        y.float().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad.clone(), adapter.gradient().clone()


def are_close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.float() - other.float()).norm() <= tolerance * other.float().norm()


def made(**settings: Any) -> tuple[Attention, FlatAdapter, Tensor]:
    torch.manual_seed(3)
    model = Attention(settings.pop("outputs", (320, 320, 320)), bias=settings.pop("bias", False))
    model.to(settings.pop("dtype", torch.float32)).requires_grad_(False)
    is_fast = settings.pop("is_fast", False)
    adapter = attached(model, **settings)
    if is_fast:
        speed_up_frozen(model)
    x = torch.randn(2, 5, 256).to(model.q.base.weight.dtype).requires_grad_()
    return model, adapter, x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("is_fast", [False, True])
def test_joined_they_give_what_they_give_apart(is_fast: bool, bias: bool, dtype: torch.dtype) -> None:
    model, adapter, x = made(is_fast=is_fast, bias=bias, dtype=dtype)
    apart = gradients(model, adapter, x)
    adapter.join()
    assert len(adapter.joined) == 1
    together = gradients(model, adapter, x)
    are_close(together, apart, 1e-5 if dtype == torch.float32 else 2e-2)
    run = lambda x: checkpoint(model, x, use_reentrant=False)  # noqa: E731
    again = gradients(model, adapter, x, run)
    assert all(torch.equal(one, other) for one, other in zip(again, together, strict=True))


def test_their_weights_take_no_more_memory() -> None:
    model, adapter, _ = made()
    before = [getattr(model, name).base.weight.clone() for name in NAMES]
    adapter.join()
    weights = [getattr(model, name).base.weight for name in NAMES]
    assert all(torch.equal(one, other) for one, other in zip(weights, before, strict=True))
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    assert weights[0].untyped_storage().nbytes() == sum(weight.nbytes for weight in weights)


def test_separate_groups_of_rates_can_be_joined() -> None:
    model, adapter, x = made(group_of=lambda target, suffix: suffix)
    apart = gradients(model, adapter, x)
    adapter.join()
    assert len(adapter.joined) == 1
    are_close(gradients(model, adapter, x), apart, 1e-5)


@pytest.mark.parametrize("settings", [{"outputs": (320, 320, 64)}, {"ranks": (3, 2, 3)}])
def test_layers_of_other_sizes_stay_apart(settings: Any) -> None:
    _, adapter, _ = made(**settings)
    adapter.join()
    assert not adapter.joined


def test_a_layer_whose_base_is_replaced_is_joined_no_more() -> None:
    model, adapter, x = made()
    adapter.join()
    model.q.base = nn.Linear(256, 320, bias=False).requires_grad_(False)
    with torch.no_grad():
        expected = model(x)  # outside of a pass each layer computes its own
    are_close(gradients(model, adapter, x)[:1], (expected,), 1e-5)


def test_dropout_keeps_them_apart() -> None:
    """Each has its own mask."""
    model, adapter, x = made(dropout=0.4)
    torch.manual_seed(5)
    apart = gradients(model, adapter, x)
    adapter.join()
    torch.manual_seed(5)
    assert all(torch.equal(*pair) for pair in zip(gradients(model, adapter, x), apart, strict=True))


def test_nothing_is_kept_of_a_pass_that_fails() -> None:
    """Activations of an interrupted pass would lie in memory that ran out."""
    model, adapter, x = made()
    adapter.join()
    with pytest.raises(MemoryError), adapter.opened():
        model.q(x)
        raise MemoryError
    assert adapter.joined[0].waiting == 0


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own tracing does
def test_compiled_code_computes_the_formula() -> None:
    """In one graph: neither the functions nor the outputs that wait for other layers are in it."""
    model, adapter, x = made()
    adapter.join()
    together = gradients(model, adapter, x)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    are_close(gradients(model, adapter, x, compiled), together, 1e-5)
    torch._dynamo.reset()
