"""Convolutions by columns of channels compute what the plain layer does, both ways, with the weights in memory once."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lorasmith.engine import cpu, cpu_convolutions
from lorasmith.engine.cpu import speed_up_frozen
from lorasmith.engine.cpu_convolutions import ChannelsLastConv2d
from lorasmith.processor import Processor
from tests.engine.test_cpu import both_ways, difference

pytestmark = pytest.mark.skipif(not cpu._has_operators(), reason="this torch has no oneDNN")

LAYERS = {
    "3x3": (lambda: nn.Conv2d(128, 64, 3, padding=1), (2, 128, 9, 7)),
    "one picture, no bias": (lambda: nn.Conv2d(64, 128, 3, padding=1, bias=False), (1, 64, 8, 8)),
    "stride 2, odd side": (lambda: nn.Conv2d(128, 64, 3, padding=1, stride=2), (1, 128, 9, 8)),
    "1x1, stride 2": (lambda: nn.Conv2d(128, 64, 1, stride=2), (2, 128, 5, 7)),
    "uneven": (lambda: nn.Conv2d(128, 64, (3, 2), padding=(2, 0), stride=(3, 2), dilation=(2, 1)), (2, 128, 15, 8)),
    "a pixel wide": (lambda: nn.Conv2d(64, 128, 3, padding=1), (1, 64, 5, 1)),
    "a pixel": (lambda: nn.Conv2d(64, 128, 3, padding=1), (1, 64, 1, 1)),
    "no padding": (lambda: nn.Conv2d(64, 128, 3), (1, 64, 3, 6)),
}
COLUMNS, WHOLE = 0, 10**9  # channels per pixel from which a layer takes that way


@pytest.fixture(autouse=True)
def intel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_MIN_WEIGHTS", 0)
    monkeypatch.setattr(cpu, "read_processor", lambda: Processor("Xeon", True, frozenset({"avx512f"})))


def made(kind: str, precision: torch.dtype = torch.float32) -> tuple[nn.Module, ChannelsLastConv2d, Tensor]:
    """A plain layer, its fast form, an input."""
    generator = torch.Generator().manual_seed(2)
    make, shape = LAYERS[kind]
    plain = make().to(precision).requires_grad_(False)
    for parameter in plain.parameters():
        parameter.normal_(generator=generator)
    owner = nn.Sequential(copy.deepcopy(plain))
    assert speed_up_frozen(owner) == 1
    assert isinstance(owner[0], ChannelsLastConv2d)
    return plain, owner[0], torch.randn(shape, generator=generator).to(precision)


@pytest.mark.parametrize("channels", [COLUMNS, WHOLE])
@pytest.mark.parametrize("kind", LAYERS)
def test_it_computes_what_the_plain_layer_does(kind: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_convolutions, "_CHANNELS_PER_PIXEL", channels)
    plain, fast, x = made(kind)
    assert type(fast(x.clone().requires_grad_()).grad_fn).__name__.startswith("_Whole" if channels else "_Columns")
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        assert fast(given).is_contiguous()  # what comes next is quickest so
        for quick, slow in zip(both_ways(fast, given), both_ways(plain, x), strict=True):
            assert quick.shape == slow.shape
            assert difference(quick, slow) < 1e-5


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bf16 in this oneDNN")
@pytest.mark.parametrize("channels", [COLUMNS, WHOLE])
def test_bf16_is_as_near_as_the_plain_layer(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_convolutions, "_CHANNELS_PER_PIXEL", channels)
    plain, fast, x = made("3x3", torch.bfloat16)
    exact = both_ways(copy.deepcopy(plain).double(), x.double())
    for quick, slow, true in zip(both_ways(fast, x), both_ways(plain, x), exact, strict=True):
        assert quick.dtype == torch.bfloat16
        assert difference(quick, true) < 2 * difference(slow, true)


@pytest.mark.parametrize("channels", [COLUMNS, WHOLE])
def test_it_repeats_itself_to_the_bit(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_convolutions, "_CHANNELS_PER_PIXEL", channels)
    _, fast, x = made("3x3")
    first = both_ways(fast, x)
    _, again, _ = made("3x3")
    for layer in (fast, again):
        assert all(torch.equal(one, other) for one, other in zip(both_ways(layer, x), first, strict=True))


def test_the_weights_are_in_memory_once() -> None:
    layer = nn.Conv2d(64, 64, 3).requires_grad_(False)
    owner = nn.Sequential(layer)
    speed_up_frozen(owner)
    assert owner[0].weight is layer.weight  # who else holds the parameter shares the new order
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert not list(owner[0].buffers())


def test_other_processors_keep_the_other_form(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_intel, flags in ((False, {"avx512f"}), (True, {"avx2"})):
        processor = Processor("other", is_intel, frozenset(flags))
        monkeypatch.setattr(cpu, "read_processor", lambda found=processor: found)
        owner = nn.Sequential(nn.Conv2d(64, 64, 3).requires_grad_(False))
        speed_up_frozen(owner)
        assert isinstance(owner[0], cpu.FrozenConv2d)
