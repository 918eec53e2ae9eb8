"""Fast layers compute what the plain layers do, repeatably; glibc keeps freed memory; other systems are left alone."""

import copy
import ctypes
import platform
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from lorasmith.engine import cpu, cpu_products
from lorasmith.engine.cpu import FrozenConv2d, FrozenLinear, PixelwiseConv2d, keep_freed_memory, speed_up_frozen

LAYERS = {
    "3x3": (lambda: nn.Conv2d(128, 64, 3, padding=1), (2, 128, 9, 7)),
    "stride 2, odd side": (lambda: nn.Conv2d(128, 64, 3, padding=1, stride=2), (1, 128, 9, 8)),
    "1x1": (lambda: nn.Conv2d(128, 64, 1), (1, 128, 6, 8)),
    "1x1, batch, no bias": (lambda: nn.Conv2d(128, 64, 1, bias=False), (3, 128, 5, 7)),
    "1x1, stride 2": (lambda: nn.Conv2d(128, 64, 1, stride=2), (2, 128, 5, 7)),
    "no bias": (lambda: nn.Conv2d(64, 128, 3, padding=1, bias=False), (1, 64, 8, 8)),
    "uneven": (lambda: nn.Conv2d(128, 64, (3, 2), padding=(2, 0), stride=(3, 2), dilation=(2, 1)), (2, 128, 15, 8)),
    "linear": (lambda: nn.Linear(64, 192), (2, 7, 64)),
    "linear, no bias": (lambda: nn.Linear(64, 192, bias=False), (5, 64)),
    "linear, one row": (lambda: nn.Linear(64, 192), (1, 64)),
}


def made(kind: str, precision: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, Tensor]:
    """A plain layer, its fast form, an input."""
    if not cpu._has_operators():
        pytest.skip("this torch has no oneDNN")
    generator = torch.Generator().manual_seed(2)
    make, shape = LAYERS[kind]
    plain = make().to(precision).requires_grad_(False)
    for parameter in plain.parameters():
        parameter.normal_(generator=generator)
    owner = nn.Sequential(copy.deepcopy(plain))
    assert speed_up_frozen(owner) == 1
    assert isinstance(owner[0], FrozenConv2d | FrozenLinear | PixelwiseConv2d)
    return plain, owner[0], torch.randn(shape, generator=generator).to(precision)


def both_ways(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output, and gradient to the input."""
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(y.dtype))
    assert x.grad is not None
    return y.detach(), x.grad


def difference(one: Tensor, other: Tensor) -> float:
    return ((one - other).double().norm() / other.double().norm()).item()


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed does not depend on the size from which it is worth it. The forms are those of any processor:
    Intel's own have their tests in `test_cpu_convolutions` and `test_cpu_products`."""
    monkeypatch.setattr(cpu, "_MIN_WEIGHTS", 0)
    monkeypatch.setattr(cpu, "_has_channels_last", lambda: False)
    monkeypatch.setattr(cpu_products, "_is_wide_intel", False)


@pytest.mark.parametrize("kind", LAYERS)
def test_it_computes_what_the_plain_layer_does(kind: str) -> None:
    plain, fast, x = made(kind)
    for quick, slow in zip(both_ways(fast, x), both_ways(plain, x), strict=True):
        assert quick.shape == slow.shape
        assert difference(quick, slow) < 1e-5


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bf16 in this oneDNN")
@pytest.mark.parametrize("kind", ["3x3", "stride 2, odd side", "1x1", "linear"])
def test_in_bf16_too(kind: str) -> None:
    plain, fast, x = made(kind, torch.bfloat16)
    for quick, slow in zip(both_ways(fast, x), both_ways(plain, x), strict=True):
        assert quick.dtype == torch.bfloat16
        assert difference(quick, slow) < 1e-2


@pytest.mark.parametrize("kind", LAYERS)
def test_it_repeats_itself_to_the_bit(kind: str) -> None:
    _, fast, x = made(kind)
    first = both_ways(fast, x)
    _, again, _ = made(kind)
    for layer in (fast, again):
        assert all(torch.equal(one, other) for one, other in zip(both_ways(layer, x), first, strict=True))


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if "linear" not in kind and "1x1" not in kind])
def test_few_pixels_and_many_go_different_ways_to_one_result(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, fast, x = made(kind)
    results = {}
    for way, channels in (("columns", 0), ("convolution", 10**9)):
        monkeypatch.setattr(cpu, "_CHANNELS_PER_PIXEL", channels)
        results[way] = both_ways(fast, x)
        assert type(fast(x.clone().requires_grad_()).grad_fn).__name__.startswith(
            "_Convolution" if way == "columns" else "Convolution"
        )
    for result in results.values():
        assert all(difference(one, other) < 1e-5 for one, other in zip(result, both_ways(plain, x), strict=True))


def test_an_input_that_is_not_contiguous() -> None:
    plain, fast, x = made("linear")
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not turned.is_contiguous()
    assert difference(fast(turned), plain(x)) < 1e-5
    for kind in ("3x3", "1x1, batch, no bias"):
        plain, fast, x = made(kind)
        assert difference(fast(x.to(memory_format=torch.channels_last)), plain(x)) < 1e-5


def test_a_gradient_that_is_not_contiguous() -> None:
    for kind in ("linear", "3x3", "1x1"):
        plain, fast, x = made(kind)
        gradients = []
        for layer in (fast, plain):
            leaf = x.clone().requires_grad_()
            layer(leaf).sum().backward()  # an expanded scalar
            gradients.append(leaf.grad)
        assert difference(*gradients) < 1e-5


def test_without_gradient_nothing_is_recorded() -> None:
    for kind in ("linear", "3x3", "1x1"):
        _, fast, x = made(kind)
        assert not fast(x).requires_grad
        with torch.no_grad():
            assert not fast(x.requires_grad_()).requires_grad


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_what_it_leaves_alone() -> None:
    kept = [
        nn.Linear(64, 128),  # trained
        Doubled(64, 128).requires_grad_(False),
        nn.Linear(64, 128).double().requires_grad_(False),
        nn.Linear(64, 128, device="meta").requires_grad_(False),
        nn.Conv2d(64, 64, 3, groups=2).requires_grad_(False),
        nn.Conv2d(64, 64, 3, padding="same").requires_grad_(False),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular").requires_grad_(False),
        nn.GroupNorm(4, 32).requires_grad_(False),
    ]
    owner = nn.ModuleList(kept)
    assert speed_up_frozen(owner) == 0
    assert all(one is other for one, other in zip(owner, kept, strict=True))


def test_a_torch_without_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_NEEDED_OPERATORS", ("_an_operator_nobody_has",))
    assert speed_up_frozen(nn.Sequential(nn.Linear(64, 128).requires_grad_(False))) == 0


def test_no_second_copy_of_the_weights_but_of_1x1_convolutions() -> None:
    for kind in LAYERS:
        plain, fast, _ = made(kind)
        size = sum(one.numel() for one in plain.parameters())
        more = sum(one.numel() for one in fast.buffers())
        assert sum(one.numel() for one in fast.parameters()) == size
        assert more == (next(plain.parameters()).numel() if isinstance(fast, PixelwiseConv2d) else 0)


@pytest.mark.skipif(not cpu._has_operators(), reason="this torch has no oneDNN")
def test_small_layers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_MIN_WEIGHTS", 64 * 32)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 63)).requires_grad_(False)
    assert speed_up_frozen(model) == 1
    assert [type(layer) for layer in model] == [FrozenLinear, nn.Linear]


# -- memory ----------------------------------------------------------------------------------------


def test_glibc_takes_them() -> None:
    assert keep_freed_memory() is (sys.platform == "linux" and platform.libc_ver()[0] == "glibc")


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc")
def test_what_is_kept_is_released_when_asked() -> None:
    program = """
import psutil, torch
from lorasmith.engine.cpu import keep_freed_memory, release_freed_memory
def mib(): return psutil.Process().memory_info().rss >> 20
assert keep_freed_memory()
before = mib()
tensors = [torch.ones(1 << 20) for _ in range(50)]
del tensors
kept, released = mib() - before, release_freed_memory()
print(kept, released, mib() - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kept, released, left = result.stdout.split()
    assert int(kept) > 150 and released == "True" and int(left) < 50


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(name: object) -> None:
        raise AssertionError("no library is to be opened")

    monkeypatch.setattr(ctypes, "CDLL", never)
    for system in ("win32", "darwin"):
        monkeypatch.setattr(sys, "platform", system)
        assert keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Musl:
        def mallopt(self, *settings: int) -> int:
            raise AssertionError("not glibc's")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Musl())
    assert keep_freed_memory() is False
