"""The pair beside a frozen layer: its formula, its gradients, where they land, what its numbers depend on."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.utils.checkpoint import checkpoint

from lorasmith.adapters.lora import Lora, LoraLayer, _Change
from lorasmith.targets import TargetModule
from tests.adapters.views import padding_of

BASES = {
    "linear": (lambda: nn.Linear(6, 10), (2, 5, 6)),
    "one row": (lambda: nn.Linear(6, 10), (6,)),
    "convolution": (lambda: nn.Conv2d(6, 10, 1), (3, 6, 4, 5)),
}


class Owner(nn.Module):
    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child = child

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.child(x)
        return y


def attached(kind: str = "linear", *, dropout: float = 0.0, seed: int = 1) -> tuple[Owner, nn.Module, Lora, Tensor]:
    """An owner with a pair of random numbers beside its layer, that layer, the adapter, an input."""
    generator = torch.Generator().manual_seed(7)
    make, shape = BASES[kind]
    base = make().requires_grad_(False)
    for parameter in base.parameters():
        parameter.normal_(generator=generator)
    owner = Owner(base)
    adapter = Lora.attach(
        [TargetModule("one", "denoiser", owner, "child")], rank=3, alpha=1.5, dropout=dropout, seed=seed
    )
    adapter.flat.normal_(generator=generator)
    return owner, base, adapter, torch.randn(shape, generator=generator)


def expected(base: nn.Module, adapter: Lora, x: Tensor, *, strength: float = 1.0) -> Tensor:
    down, up = adapter.tensors().values()
    apply = conv2d if x.ndim == 4 else linear
    y: Tensor = base(x) + strength * 1.5 / 3 * apply(apply(x, down), up)
    return y


@pytest.mark.parametrize("kind", BASES)
def test_it_adds_the_change(kind: str) -> None:
    owner, base, adapter, x = attached(kind)
    torch.testing.assert_close(owner(x), expected(base, adapter, x))
    adapter.set_multiplier(0.6)
    torch.testing.assert_close(owner(x), expected(base, adapter, x, strength=0.6))


@pytest.mark.parametrize("kind", BASES)
def test_strength_zero_is_the_base_to_the_bit(kind: str) -> None:
    owner, base, adapter, x = attached(kind)
    adapter.set_multiplier(0)
    assert torch.equal(owner(x), base(x))


@pytest.mark.parametrize("kind", BASES)
def test_it_starts_as_the_base(kind: str) -> None:
    make, shape = BASES[kind]
    base = make()
    owner = Owner(base)
    Lora.attach([TargetModule("one", "denoiser", owner, "child")], rank=3, alpha=3, dropout=0, seed=1)
    x = torch.randn(shape)
    assert torch.equal(owner(x), base(x))


@pytest.mark.parametrize("shape", [(2, 3, 4), (4,), (2, 4, 3, 2)])
def test_gradients_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(3)
    out = (2, 5, 3, 2) if len(shape) == 4 else (*shape[:-1], 5)
    tensors = [
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in (out, shape, (3, 4), (5, 3))
    ]
    assert torch.autograd.gradcheck(lambda y, x, down, up: _Change.apply(y, x, down, up, 0.7), tensors)


def test_gradients_add_up_in_the_flat_buffer() -> None:
    owner, _, adapter, x = attached()
    down, up = adapter.parameters("denoiser")
    owner(x).square().sum().backward()
    once = adapter.gradient().clone()
    assert down.grad is not None and down.grad.abs().min() > 0
    owner(x).square().sum().backward()
    assert torch.equal(adapter.gradient(), 2 * once)
    assert up.grad is not None and up.grad.abs().min() > 0
    assert not padding_of([down.grad, up.grad], adapter.gradient()).any()
    adapter.clear_gradient()
    assert not down.grad.any() and not up.grad.any()


def test_parameters_are_views_of_the_flat_buffer() -> None:
    owner, _, adapter, x = attached()
    before = owner(x)
    adapter.flat.mul_(2)
    assert not torch.equal(owner(x), before)
    down, up = adapter.parameters("denoiser")
    assert down.shape == (3, 6) and up.shape == (10, 3)
    padding_of([down, up], adapter.flat)


def test_an_input_that_needs_no_gradient_gets_none() -> None:
    owner, _, adapter, x = attached()
    y = owner(x)
    assert y.grad_fn.next_functions[0][0] is None and y.grad_fn.next_functions[1][0] is None
    y.sum().backward()
    with_input = adapter.gradient().clone()
    adapter.clear_gradient()
    x.requires_grad_()
    owner(x).sum().backward()
    assert x.grad is not None and torch.equal(adapter.gradient(), with_input)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradient_checkpointing_gives_the_same_bits(dropout: float) -> None:
    owner, _, adapter, x = attached(dropout=dropout)
    adapter.set_training(True)
    x.requires_grad_()
    torch.manual_seed(5)
    owner(x).square().sum().backward()
    plain, to_x = adapter.gradient().clone(), x.grad
    adapter.clear_gradient()
    x.grad = None
    torch.manual_seed(5)
    checkpoint(owner, x, use_reentrant=False).square().sum().backward()
    assert to_x is not None and x.grad is not None
    assert torch.equal(adapter.gradient(), plain) and torch.equal(x.grad, to_x)


def test_dropout_acts_in_training_only_and_spares_the_base() -> None:
    owner, base, adapter, x = attached(dropout=0.5)
    whole = owner(x)
    torch.testing.assert_close(whole, expected(base, adapter, x))
    adapter.set_training(True)
    torch.manual_seed(5)
    first = owner(x)
    torch.manual_seed(5)
    assert torch.equal(owner(x), first)
    assert not torch.equal(owner(x), first) and not torch.equal(first, whole)
    torch.manual_seed(5)
    kept = nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(first - base(x), expected(base, adapter, kept) - base(kept))
    adapter.set_training(False)
    assert torch.equal(owner(x), whole)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_the_adapter_stays_float32_under_a_base_of_less(kind: str, precision: torch.dtype) -> None:
    owner, base, adapter, x = attached(kind)
    exact = expected(base, adapter, x)
    owner.child.base.to(precision)
    y = owner(x.to(precision))
    assert y.dtype == precision
    assert (y - exact).norm() / exact.norm() < 0.02
    y.float().square().sum().backward()
    assert adapter.flat.dtype == adapter.gradient().dtype == torch.float32
    assert adapter.gradient().abs().max() > 0


def test_the_initial_numbers_depend_on_seed_and_name_alone() -> None:
    def start(names: list[str], seed: int) -> dict[str, Tensor]:
        owners = [Owner(nn.Linear(6, 10)) for _ in names]
        torch.manual_seed(len(names))
        targets = [TargetModule(name, "denoiser", owner, "child") for name, owner in zip(names, owners, strict=True)]
        return Lora.attach(targets, rank=3, alpha=3, dropout=0, seed=seed).tensors()

    some, more, other = start(["b"], 1), start(["a", "b"], 1), start(["b"], 2)
    name = "b.lora_down.weight"
    assert torch.equal(some[name], more[name])
    assert not torch.equal(some[name], other[name])
    assert not torch.equal(more["a.lora_down.weight"], more[name])
    assert 0.3 / math.sqrt(6) < some[name].abs().mean() < 1 / math.sqrt(6)
    assert some[name].abs().max() <= 1 / math.sqrt(6)


def test_a_convolution_with_neighbours_is_refused() -> None:
    with pytest.raises(AssertionError, match="each pixel"):
        owner = Owner(nn.Conv2d(6, 10, 3, padding=1))
        Lora.attach([TargetModule("one", "denoiser", owner, "child")], rank=3, alpha=3, dropout=0, seed=1)


def test_a_base_replaced_later_is_used() -> None:
    owner, base, _, x = attached()
    assert isinstance(owner.child, LoraLayer)
    before = owner(x)
    owner.child.base = nn.Identity()
    torch.testing.assert_close(owner.child.base(x), x)
    owner.child.base = base
    assert torch.equal(owner(x), before)


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_every_view_begins_at_a_multiple_of_64_bytes(rank: int) -> None:
    """Products of operands at other places may have other bits."""
    parent = nn.Module()
    targets = []
    for number, (inputs, outputs) in enumerate([(5, 7), (10, 3), (8, 16)]):
        parent.add_module(str(number), nn.Linear(inputs, outputs))
        targets.append(TargetModule(f"layer.{number}", "denoiser", parent, str(number)))
    adapter = Lora.attach(targets, rank=rank, alpha=1.0, dropout=0.0, seed=1)
    for view in adapter.parameters("denoiser"):
        assert view.grad is not None
        assert view.data_ptr() % 64 == 0 and view.grad.data_ptr() % 64 == 0
