"""LoRA (arXiv 2106.09685): the product of a pair of low-rank matrices is added to each frozen weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import conv2d, linear

from lorasmith.adapters.base import AdapterLayer, LayerSettings
from lorasmith.adapters.fused import FrozenProduct, Pair, added, changed, frozen_product
from lorasmith.adapters.joined import JoinedLayers, joined
from lorasmith.adapters.low_rank import add_low_rank, add_product
from lorasmith.adapters.operation import Operation
from lorasmith.adapters.working_copy import WorkingCopy
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
        self.pair: Pair | None = None
        """Its numbers in the working copy."""
        self._frozen: tuple[nn.Module, FrozenProduct | None] | None = None  # a base and its product
        self._joined: tuple[nn.Module, JoinedLayers, int] | None = None  # the base then, and the number among them

    def use(self, copy: WorkingCopy) -> None:
        is_for_pixels = isinstance(self.base, nn.Conv2d)
        self.pair = Pair.of(copy, self.down, self.up, self.scale, is_for_pixels=is_for_pixels)

    def join(self, layers: Sequence[AdapterLayer]) -> JoinedLayers | None:
        pairs = [layer for layer in layers if isinstance(layer, LoraLayer)]
        found = joined(pairs, self.up) if len(pairs) == len(layers) else None
        if found is not None:
            for number, layer in enumerate(pairs):
                layer._joined = layer.base, found, number
        return found

    def applied(self, x: Tensor) -> Tensor:
        pair = self._open_pair(x)
        if pair is None or not self.is_whole:
            return super().applied(x)
        if self._joined is not None and self._joined[0] is self.base:
            return self._joined[1].output(self._joined[2], x)
        product = self._frozen_product()
        return super().applied(x) if product is None else changed(x, product, pair, self.up)

    def _open_pair(self, x: Tensor) -> Pair | None:
        """The pair of the working copy, while that can be used for this input. What is compiled makes its own."""
        if torch.compiler.is_compiling() or self.pair is None or not self.pair.copy.is_open:
            return None
        is_plain = self.multiplier == 1 and not (self.dropout_active and self.rank_dropout)
        return self.pair if is_plain and x.dtype == self.pair.copy.precision else None

    def _frozen_product(self) -> FrozenProduct | None:
        """That of the base as it is now: it may have been replaced."""
        if self._frozen is None or self._frozen[0] is not self.base:
            self._frozen = self.base, frozen_product(self.base)
        return self._frozen[1]

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        pair = self._open_pair(x)
        if pair is not None:
            return added(y, x, pair, self.up)
        down, up = self.down.to(x.dtype), self.up.to(x.dtype)
        if x.ndim == 4:  # a picture: channels are the second dimension
            change = conv2d(self.drop_ranks(conv2d(x, down[:, :, None, None])), up[:, :, None, None])
        else:
            change = linear(self.drop_ranks(linear(x, down)), up)
        return y + self.multiplier * self.scale * change


class CpuLoraLayer(LoraLayer):
    """The same in fewer and cheaper operations on a CPU, where reading and writing memory is what takes the time."""

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        if (self.dropout_active and self.rank_dropout) or self._open_pair(x) is not None:
            return super().changed(y, x)
        return add_low_rank(y, x, self.down, self.up, self.multiplier * self.scale)


class ConvolutionLoraLayer(LoraLayer):
    """The same for a convolution with a window: `down`, (rank, in * height * width), has the window too."""

    def __init__(self, base: nn.Conv2d, down: nn.Parameter, up: nn.Parameter, settings: LayerSettings) -> None:
        super().__init__(base, down, up, settings)
        self.operation = Operation(base)

    def use(self, copy: WorkingCopy) -> None:
        """Products of windows keep their own gradients."""

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
