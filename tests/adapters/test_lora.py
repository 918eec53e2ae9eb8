"""LoRA: its formula in both of its layers, dropout and precision, and what its initial numbers depend on."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear
from torch.utils.checkpoint import checkpoint

from lorasmith.adapters import lora
from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.adapters.lora import (
    DOWN,
    UP,
    ConvolutionLoraLayer,
    CpuConvolutionLoraLayer,
    CpuLoraLayer,
    Lora,
    LoraLayer,
)
from tests.adapters.making import attached_to_all

BASES = {
    "linear": (lambda: nn.Linear(6, 10), (2, 5, 6)),
    "one row": (lambda: nn.Linear(6, 10), (6,)),
    "convolution": (lambda: nn.Conv2d(6, 10, 1), (3, 6, 4, 5)),
    "window": (lambda: nn.Conv2d(6, 10, 3, padding=1), (3, 6, 4, 5)),
    "strides": (lambda: nn.Conv2d(6, 10, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2)), (3, 6, 8, 9)),
    "pixels left out": (lambda: nn.Conv2d(6, 10, 1, stride=2), (3, 6, 8, 9)),
}


LAYERS = {"cpu": (CpuLoraLayer, CpuConvolutionLoraLayer), "elsewhere": (LoraLayer, ConvolutionLoraLayer)}


@pytest.fixture(params=LAYERS, autouse=True)
def layers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[type[LoraLayer], type[LoraLayer]]:
    """The layers for pixels and for windows; all are tested on the CPU."""
    chosen = LAYERS[request.param]
    monkeypatch.setattr(lora, "CpuLoraLayer", chosen[0])
    monkeypatch.setattr(lora, "CpuConvolutionLoraLayer", chosen[1])
    return chosen


def trained(kind: str = "linear", **dropouts: float) -> tuple[nn.Sequential, nn.Module, FlatAdapter, Tensor]:
    """A model with a pair of random numbers beside its only layer, that layer, the adapter, an input."""
    generator = torch.Generator().manual_seed(7)
    make, shape = BASES[kind]
    base = make().requires_grad_(False)
    for parameter in base.parameters():
        parameter.normal_(generator=generator)
    model = nn.Sequential(base)
    adapter = attached_to_all(model, rank=3, alpha=1.5, **dropouts)
    adapter.flat.normal_(generator=generator)
    return model, base, adapter, torch.randn(shape, generator=generator)


def expected(base: nn.Module, adapter: FlatAdapter, x: Tensor, *, multiplier: float = 1.0) -> Tensor:
    down, up = adapter.tensors().values()
    if isinstance(base, nn.Conv2d):
        change = conv2d(conv2d(x, down, None, base.stride, base.padding, base.dilation), up)
    else:
        change = linear(linear(x, down), up)
    y: Tensor = base(x) + multiplier * 1.5 / 3 * change
    return y


@pytest.mark.parametrize("kind", BASES)
def test_it_adds_the_change(kind: str, layers: tuple[type[LoraLayer], type[LoraLayer]]) -> None:
    model, base, adapter, x = trained(kind)
    assert type(model[0]) is layers[kind not in ("linear", "one row", "convolution")]
    torch.testing.assert_close(model(x), expected(base, adapter, x))
    adapter.set_multiplier(0.6)
    torch.testing.assert_close(model(x), expected(base, adapter, x, multiplier=0.6))
    adapter.set_multiplier(0)
    assert torch.equal(model(x), base(x))


@pytest.mark.parametrize("dropouts", [{}, {"dropout": 0.4}, {"rank_dropout": 0.4}, {"module_dropout": 0.4}])
@pytest.mark.parametrize("kind", ["linear", "convolution", "window"])
def test_gradient_checkpointing_gives_the_same_bits(kind: str, dropouts: dict[str, float]) -> None:
    model, _, adapter, x = trained(kind, **dropouts)
    adapter.set_training(True)
    x.requires_grad_()
    torch.manual_seed(5)
    model(x).square().sum().backward()
    plain, grad_x = adapter.gradient().clone(), x.grad
    adapter.clear_gradient()
    x.grad = None
    torch.manual_seed(5)
    checkpoint(model, x, use_reentrant=False).square().sum().backward()
    assert grad_x is not None and x.grad is not None
    assert torch.equal(adapter.gradient(), plain) and torch.equal(x.grad, grad_x)


def test_dropout_acts_in_training_only_and_spares_the_base() -> None:
    model, base, adapter, x = trained(dropout=0.5)
    torch.testing.assert_close(model(x), expected(base, adapter, x))
    adapter.set_training(True)
    torch.manual_seed(5)
    first = model(x)
    torch.manual_seed(5)
    kept = nn.functional.dropout(x, 0.5)
    torch.testing.assert_close(first - base(x), expected(base, adapter, kept) - base(kept))


@pytest.mark.parametrize("kind", [kind for kind in BASES if kind != "one row"])
def test_rank_dropout_leaves_out_whole_ranks_of_an_example(kind: str) -> None:
    """All rows and pixels of it see the same ranks, and those that are kept are enlarged by 1 / (1 - 1/2)."""
    model, _, adapter, x = trained(kind, rank_dropout=0.5)
    pair, part = adapter.tensors(), []
    for kept in itertools.product((0.0, 2.0), repeat=3):
        adapter.load_tensors({name: tensor * _on(kept, tensor, name) for name, tensor in pair.items()})
        part.append(model(x))
    adapter.load_tensors(pair)
    adapter.set_training(True)
    torch.manual_seed(5)
    outputs = [model(x) for _ in range(12)]
    seen = set()
    for y in outputs:
        for example in range(len(x)):
            close = [n for n, one in enumerate(part) if torch.allclose(y[example], one[example], rtol=1e-4, atol=1e-4)]
            assert len(close) == 1
            seen |= set(close)
    assert len(seen) > 3


def _on(kept: tuple[float, ...], tensor: Tensor, name: str) -> Tensor:
    return torch.tensor(kept).view(-1, *[1] * (tensor.ndim - 1)) if name.endswith(DOWN) else torch.ones(())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["linear", "convolution", "window"])
def test_the_adapter_stays_float32_under_a_base_of_less(kind: str, precision: torch.dtype) -> None:
    model, base, adapter, x = trained(kind)
    exact = expected(base, adapter, x)
    model[0].base.to(precision)
    y = model(x.to(precision))
    assert y.dtype == precision
    assert (y - exact).norm() / exact.norm() < 0.02
    y.float().square().sum().backward()
    assert adapter.flat.dtype == adapter.gradient().dtype == torch.float32
    assert adapter.gradient().abs().max() > 0


def test_the_initial_numbers_depend_on_seed_and_name_alone() -> None:
    def start(count: int, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(count)
        return attached_to_all(nn.Sequential(*(nn.Linear(6, 6) for _ in range(count))), rank=3, seed=seed).tensors()

    few, more, other = start(1, 1), start(2, 1), start(1, 2)
    name, second = f"denoiser.0.{DOWN}", f"denoiser.1.{DOWN}"
    assert torch.equal(few[name], more[name])
    assert not torch.equal(few[name], other[name])
    assert not torch.equal(more[second], more[name])
    assert 0.3 / math.sqrt(6) < few[name].abs().mean() < 1 / math.sqrt(6)
    assert few[name].abs().max() <= 1 / math.sqrt(6)


@pytest.mark.parametrize("change", [{"groups": 2}, {"padding_mode": "circular"}])
def test_convolutions_that_no_file_can_hold_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        attached_to_all(nn.Sequential(nn.Conv2d(6, 10, 3, padding=1, **change)))


def test_a_base_replaced_later_is_used() -> None:
    model, base, adapter, x = trained()
    model[0].base = nn.Linear(6, 10)
    torch.testing.assert_close(model(x), expected(model[0].base, adapter, x))
    model[0].base = base
    torch.testing.assert_close(model(x), expected(base, adapter, x))


def test_the_layer_made_for_cpus_is_used_on_cpus_only() -> None:
    with torch.device("meta"):
        base = nn.Linear(6, 10)
        pair = {DOWN: nn.Parameter(torch.empty(3, 6)), UP: nn.Parameter(torch.empty(10, 3))}
    assert type(Lora().layer(base, pair, LayerSettings(3, 3.0))) is LoraLayer


def test_delta_is_what_the_pair_computes() -> None:
    """Also for the kernel of a convolution."""
    torch.manual_seed(0)
    down, up, x = torch.randn(3, 5), torch.randn(7, 3), torch.randn(2, 5)
    delta = Lora().delta(torch.empty(7, 5), {DOWN: down, UP: up}, LayerSettings(3, 6.0))
    assert torch.allclose(linear(x, delta), 2.0 * (x @ down.T @ up.T), atol=1e-5)
    pictures, down = torch.randn(2, 5, 4, 4), torch.randn(3, 5, 3, 3)
    delta = Lora().delta(torch.empty(7, 5, 3, 3), {DOWN: down, UP: up[:, :, None, None]}, LayerSettings(3, 6.0))
    twice = conv2d(conv2d(pictures, down), up[:, :, None, None])
    assert torch.allclose(conv2d(pictures, delta), 2.0 * twice, atol=1e-4)


def of_sines(shape: tuple[int, ...], step: float) -> Tensor:
    return (torch.arange(math.prod(shape)) * step).sin().reshape(shape)


@pytest.mark.parametrize(
    ("kernel", "alpha", "factor", "expected"),
    [
        ((), 3.0, 1.0, [0.3998972, 0.4321308, 0.06706529, 0.4321308, -0.3596597, -0.1327883]),
        ((3, 3), 1.0, 1.0, [0.4282458, 0.4627644, 0.07181954, 0.4627644, -0.3851559, -0.1422016]),
        ((), 1.0, 0.1, [0.0841471, 0.09092974, 0.014112, 0.9092974, -0.7568025, -0.2794155]),
    ],
)
def test_norms_are_limited_as_by_sd_scripts(
    kernel: tuple[int, ...], alpha: float, factor: float, expected: list[float]
) -> None:
    """Numbers 1 to 3 of both matrices, as its `apply_max_norm_regularization` (commit 48d368fa) left them."""
    base: nn.Module = nn.Conv2d(3, 4, 3, bias=False) if kernel else nn.Linear(3, 4, bias=False)
    adapter = attached_to_all(nn.Sequential(base), rank=2, alpha=alpha)
    down, up = factor * of_sines((2, 3, *kernel), 1.0), of_sines((4, 2, *(1,) * len(kernel)), 2.0)
    adapter.load_tensors({f"denoiser.0.{DOWN}": down, f"denoiser.0.{UP}": up})
    adapter.limit_norms(1.0)
    found = [adapter.tensors()[f"denoiser.0.{suffix}"].flatten()[1:4].tolist() for suffix in (DOWN, UP)]
    assert [*found[0], *found[1]] == pytest.approx(expected, rel=2e-6)
