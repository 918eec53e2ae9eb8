"""LoRA (arXiv 2106.09685): the product of a pair of low-rank matrices is added to each frozen weight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d, linear

from lorasmith.adapters.base import AdapterLayer, LayerSettings
from lorasmith.adapters.low_rank import add_low_rank, add_product
from lorasmith.adapters.operation import Operation
from lorasmith.targets import LayerSpec

DOWN, UP = "lora_down.weight", "lora_up.weight"


class Lora:
    """The kind `lora`, an AdapterKind: alpha / rank * up @ down, for linear layers and convolutions.

    A convolution's `down` has the kernel and the window of the layer, its `up` is 1x1.
    """

    name = "lora"
    suffixes: tuple[str, ...] = (DOWN, UP)
    row_suffixes: frozenset[str] = frozenset({UP})
    float32_suffixes: frozenset[str] = frozenset()
    network_module = "networks.lora"
    network_args: Mapping[str, str] = {}

    def shapes(self, layer: LayerSpec, settings: LayerSettings) -> dict[str, tuple[int, ...]]:
        pointwise = (1,) * len(layer.kernel)
        return {DOWN: (settings.rank, layer.inputs, *layer.kernel), UP: (layer.outputs, settings.rank, *pointwise)}

    def layer_of(self, shapes: Mapping[str, tuple[int, ...]], kernel: tuple[int, ...]) -> tuple[LayerSpec, int]:
        return LayerSpec(shapes[UP][0], shapes[DOWN][1], kernel), shapes[DOWN][0]

    def init(self, base: nn.Module, tensors: Mapping[str, Tensor], generator: Generator) -> None:  # noqa: ARG002
        """`down` is uniform in ±1/sqrt(numbers that an output is made of), Kaiming's initialization for a slope of
        sqrt(5); `up` stays zero."""
        down = tensors[DOWN]
        bound = 1 / math.sqrt(down.shape[1])
        down.copy_(torch.empty(down.shape).uniform_(-bound, bound, generator=generator))

    def layer(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> AdapterLayer:
        is_on_cpu = base.get_parameter("weight").device.type == "cpu"
        if isinstance(base, nn.Conv2d) and not _is_pixelwise(base):
            convolution = CpuConvolutionLoraLayer if is_on_cpu else ConvolutionLoraLayer
            return convolution(base, tensors[DOWN], tensors[UP], settings)
        assert isinstance(base, nn.Linear | nn.Conv2d), type(base).__name__
        layer = CpuLoraLayer if is_on_cpu else LoraLayer
        return layer(base, tensors[DOWN], tensors[UP], settings)

    def delta(self, weight: Tensor, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        product = torch.mm(tensors[UP].flatten(1), tensors[DOWN].flatten(1))
        return (settings.alpha / settings.rank * product).reshape(weight.shape)

    def norm(self, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        """Without the product itself: its square is the sum of (up^T up) * (down down^T)."""
        up, down = tensors[UP], tensors[DOWN]
        squares = torch.mm(up.t(), up) * torch.mm(down, down.t())
        return settings.alpha / settings.rank * squares.sum().clamp(min=0).sqrt()

    def scaled(self, tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
        return {**tensors, UP: tensors[UP] * factor}

    def file_alpha(self, shapes: Mapping[str, tuple[int, ...]], settings: LayerSettings) -> float:  # noqa: ARG002
        return settings.alpha

    def file_scale(self, shapes: Mapping[str, tuple[int, ...]], alpha: float | None) -> float:
        return 1.0 if alpha is None else alpha / shapes[DOWN][0]


class LoraLayer(AdapterLayer):
    """base(x) + multiplier * alpha / rank * up(down(dropout(x))).

    `down` (rank, in) and `up` (out, rank) are float32 whatever the precision of the base; they are rounded to the
    precision of the activations where they meet them.
    """

    def __init__(self, base: nn.Module, down: nn.Parameter, up: nn.Parameter, settings: LayerSettings) -> None:
        super().__init__(base, settings)
        self.down, self.up = down, up
        self.scale = settings.alpha / settings.rank

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if x.ndim == 4:  # a picture: channels are the second dimension
            change = conv2d(self.drop_ranks(conv2d(x, down[:, :, None, None])), up[:, :, None, None])
        else:
            change = linear(self.drop_ranks(linear(x, down)), up)
        return y + self.multiplier * self.scale * change


class CpuLoraLayer(LoraLayer):
    """The same in fewer and cheaper operations on a CPU, where reading and writing memory is what takes the time."""

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        if self.dropout_active and self.rank_dropout:
            return super().changed(y, x)
        return add_low_rank(y, x, self.down, self.up, self.multiplier * self.scale)


class ConvolutionLoraLayer(LoraLayer):
    """The same for a convolution with a window: `down`, (rank, in * height * width), has the window too."""

    def __init__(self, base: nn.Conv2d, down: nn.Parameter, up: nn.Parameter, settings: LayerSettings) -> None:
        super().__init__(base, down, up, settings)
        self.operation = Operation(base)

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        change = conv2d(self.low_rank(x), self.up.to(x.dtype)[:, :, None, None])
        return y + self.multiplier * self.scale * change

    def low_rank(self, x: Tensor) -> Tensor:
        return self.drop_ranks(self.operation(x, self.down.to(x.dtype)))


class CpuConvolutionLoraLayer(ConvolutionLoraLayer):
    """The same as `CpuLoraLayer`, for a convolution with a window."""

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        return add_product(y, self.low_rank(x), self.up, self.multiplier * self.scale)


def _is_pixelwise(base: nn.Conv2d) -> bool:
    """Whether a convolution is a linear layer of each pixel."""
    return base.kernel_size == base.stride == (1, 1) and base.padding == (0, 0) and base.groups == 1
