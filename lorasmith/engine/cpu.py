"""Faster steps on a CPU: frozen layers in the form that oneDNN is quickest at, and memory that is kept.

Frozen layers give a gradient to their input and none to their weights. Their weights stay as they are: in oneDNN's own
order some would be a little faster, at the price of a second copy, of seconds at every start, and of a product 50 times
slower where a picture's size needs another order than the one they were put into (ADR 9).
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, fold, unfold

from lorasmith.engine.cpu_attention import speed_up_attention
from lorasmith.engine.cpu_convolutions import ChannelsLastConv2d
from lorasmith.engine.cpu_products import product
from lorasmith.processor import read_processor

# mallopt's parameters, from <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Above the activations of a step. Older versions of glibc refuse more than 32 MiB.
_MMAP_THRESHOLDS = (1 << 30, 1 << 25)
_NEVER_TRIM = 2**31 - 1

# A convolution reads its weights once for all pixels. From that many channels per pixel on, reading them
# dominates, and oneDNN's convolution re-orders them first, while a product of matrices takes them as they are.
_CHANNELS_PER_PIXEL = 4
# Below this, the cost of a call outweighs what a faster product saves.
_MIN_WEIGHTS = 1 << 16
_NEEDED_OPERATORS = ("_linear_pointwise", "_is_mkldnn_bf16_supported", "_is_mkldnn_fp16_supported")

Window = dict[str, tuple[int, ...]]  # the sizes of a convolution, by unfold's names


def keep_freed_memory() -> bool:
    """Has glibc keep freed memory in the process; called once, before models are loaded. Does nothing elsewhere.

    glibc maps blocks of over 128 KiB to 32 MiB singly and unmaps them when they are freed, so the kernel would zero
    every activation of every step again, page by page. Returns whether glibc accepted both settings.
    """
    libc = _glibc()
    if libc is None:
        return False
    mallopt = libc.mallopt
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    maps_less = any(mallopt(_M_MMAP_THRESHOLD, size) == 1 for size in _MMAP_THRESHOLDS)
    trims_less = mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM) == 1
    return maps_less and trims_less


def release_freed_memory() -> bool:
    """Returns the memory that glibc keeps to the system, after something large was made and dropped; what a step frees
    is kept from then on as before. Does nothing elsewhere, and returns whether any was released."""
    libc = _glibc()
    return libc is not None and libc.malloc_trim(0) == 1


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    # only glibc has the first name; musl's mallopt is absent too
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt") else None


def speed_up_frozen(model: nn.Module) -> int:
    """Replaces the frozen convolutions and linear layers inside `model` and returns how many.

    Called once, after everything that is trained has been attached. A layer stays as it is if it holds trained
    parameters, is small, lies on another device, has an unsupported precision or kind, or if this torch lacks oneDNN.
    Only 1x1 convolutions take more memory than before: a second copy of their weights.
    """
    if not _has_operators():
        return 0
    count = 0
    for owner in list(model.modules()):
        for name, layer in list(owner.named_children()):
            fast = _fast_form(layer)
            if fast is not None:
                setattr(owner, name, fast)
                count += 1
    if _has_matrix_units():
        speed_up_attention(model)
    return count


class FrozenLinear(nn.Module):
    """A linear layer, (..., in) -> (..., out)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return _applied(_Linear, x, self.weight, self.bias)

    def product(self, x: Tensor) -> Tensor:
        """The output for rows (n, in), without autograd: an adapter's layer makes its own of both."""
        return product(x, self.weight.t(), self.bias)

    def input_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient of the input from that of the output, (n, out)."""
        return product(gradient, self.weight)


class PixelwiseConv2d(nn.Module):
    """A 1x1 convolution, (B, C, h, w) -> (B, O, h, w)."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.register_buffer("weight_t", layer.weight.detach().flatten(1).t().contiguous(), persistent=False)  # (C, O)

    def forward(self, x: Tensor) -> Tensor:
        return _applied(_PixelwiseConvolution, x, self.weight, self.weight_t, self.bias)


class FrozenConv2d(nn.Module):
    """A convolution with any kernel, (B, C, h, w) -> (B, O, h', w')."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.window: Window = {
            "kernel_size": layer.kernel_size,
            "dilation": layer.dilation,
            "padding": tuple(int(side) for side in layer.padding),  # numbers: `_fast_form` refuses words
            "stride": layer.stride,
        }

    def forward(self, x: Tensor) -> Tensor:
        sides = [_windows(side, axis, self.window) for axis, side in enumerate(x.shape[2:])]
        if max(self.weight.shape[:2]) < _CHANNELS_PER_PIXEL * len(x) * math.prod(sides):
            window = self.window
            return conv2d(x, self.weight, self.bias, window["stride"], window["padding"], window["dilation"])
        return _applied(_Convolution, x, self.weight, self.bias, self.window, sides)


def _windows(side: int, axis: int, window: Window) -> int:
    """The number of windows along a side, given in pixels."""
    reach = window["dilation"][axis] * (window["kernel_size"][axis] - 1) + 1
    return (side + 2 * window["padding"][axis] - reach) // window["stride"][axis] + 1


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return product(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        (weight,) = ctx.saved_tensors
        return product(gradient, weight) if ctx.needs_input_grad[0] else None, None, None


class _PixelwiseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, weight_t: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight_t)
        result = _pixelwise(weight.flatten(1), x)
        return result if bias is None else result.add_(bias[:, None, None])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        (weight_t,) = ctx.saved_tensors
        return _pixelwise(weight_t, gradient) if ctx.needs_input_grad[0] else None, None, None, None


class _Convolution(torch.autograd.Function):
    """A product with the columns of all windows: few pixels make few columns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, sides: list[int]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.window, ctx.input_sides = window, x.shape[2:]
        columns = unfold(x, **window)  # (B, C k k, h' w')
        columns = columns.transpose(0, 1).flatten(1)  # (C k k, B h' w'): a copy for several pictures
        result = product(weight.flatten(1), columns)  # (O, B h' w')
        if bias is not None:
            result.add_(bias[:, None])
        return result.view(len(weight), len(x), *sides).transpose(0, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        (weight,) = ctx.saved_tensors
        rows = gradient.flatten(2).transpose(1, 2)  # (B, h' w', O)
        columns = product(rows, weight.flatten(1)).transpose(1, 2)  # (B, C k k, h' w')
        return fold(columns, tuple(ctx.input_sides), **ctx.window), None, None, None, None


def _applied(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    result: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


def _pixelwise(weight: Tensor, x: Tensor) -> Tensor:
    """(O, C) times each pixel of (B, C, h, w)."""
    pictures = [product(weight, picture) for picture in x.flatten(2)]
    result = pictures[0] if len(pictures) == 1 else torch.cat(pictures)
    return result.view(len(x), len(weight), *x.shape[2:])


def _fast_form(layer: nn.Module) -> nn.Module | None:
    """The layer that replaces `layer`; None if it stays."""
    # Subclasses may compute something else.
    if type(layer) is nn.Linear and _is_supported(layer):
        return FrozenLinear(layer)
    if type(layer) is nn.Conv2d and _is_supported(layer):
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            return None
        if layer.kernel_size == layer.stride == (1, 1) and layer.padding == (0, 0):
            return PixelwiseConv2d(layer)
        return ChannelsLastConv2d(layer) if _has_channels_last() else FrozenConv2d(layer)
    return None


def forms_of_processor() -> str:
    """The names of the forms that only some processors take, "" for the others: bits depend on them."""
    forms = {"channels_last": _has_channels_last(), "kept_softmax": _has_matrix_units()}
    return ", ".join(name for name, has in forms.items() if has)


def _has_channels_last() -> bool:
    """Whether convolutions are quicker in the order of channels_last: measured on Intel's AVX-512 only."""
    processor = read_processor()
    return processor.is_intel and "avx512f" in processor.flags


def _has_matrix_units() -> bool:
    """Whether whole products of attention in bfloat16 are quicker than torch's blocks: measured on AMX only."""
    return "amx_bf16" in read_processor().flags


def _is_supported(layer: nn.Linear | nn.Conv2d) -> bool:
    if layer.weight.device.type != "cpu" or any(parameter.requires_grad for parameter in layer.parameters()):
        return False
    if layer.weight.numel() < _MIN_WEIGHTS:
        return False
    supported: dict[torch.dtype, Callable[[], Any]] = {
        torch.float32: lambda: True,
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return layer.weight.dtype in supported and bool(supported[layer.weight.dtype]())


def _has_operators() -> bool:
    """Whether this torch has oneDNN's operators: they are not in its public interface; some builds lack them."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in _NEEDED_OPERATORS)
