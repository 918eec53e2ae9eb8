"""The protocol of a kind of adapter: LoRA, LoHa and the like are formulas for the change of a layer.

`FlatAdapter` attaches a kind to all layers of a model and keeps its numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import dropout

from lorasmith.adapters.joined import JoinedLayers
from lorasmith.adapters.working_copy import WorkingCopy
from lorasmith.targets import LayerSpec


@dataclass(frozen=True, slots=True)
class LayerSettings:
    """The settings of the change of a layer; layers of an adapter may differ."""

    rank: int
    alpha: float
    dropout: float = 0.0  # share of the layer's inputs that the change leaves out in training
    rank_dropout: float = 0.0  # share of its ranks, for an example at a time where the formula allows it
    module_dropout: float = 0.0  # probability that there is no change


class AdapterKind(Protocol):
    """The formula of a change and its tensors, for one layer at a time. Has no state but its own options.

    Tensors are named by their suffix: in states and files a tensor is called "<layer>.<suffix>".
    """

    name: str
    """A key of ADAPTERS; part of the seed of the initial numbers."""
    suffixes: tuple[str, ...]
    """Every suffix that a layer may have."""
    row_suffixes: frozenset[str]
    """Suffixes of the matrices with a row for each output of the layer, so that those of layers that a file holds as
    one (q, k and v) can be stacked block-diagonally, and all others one below the other. Empty: not possible."""
    float32_suffixes: frozenset[str]
    """Suffixes of what files keep in float32 whatever their precision: rounded, it would change the base model."""
    network_module: str
    """ss_network_module of the exported file."""

    @property
    def network_args(self) -> Mapping[str, str]:
        """ss_network_args of the exported file."""

    def shapes(self, layer: LayerSpec, settings: LayerSettings) -> dict[str, tuple[int, ...]]:
        """Shapes by suffix, as states and files have them, in the order of the buffer."""

    def layer_of(self, shapes: Mapping[str, tuple[int, ...]], kernel: tuple[int, ...]) -> tuple[LayerSpec, int]:
        """The layer, and a rank, that tensors of these shapes are for. `shapes` holds at least two dimensions for
        every suffix and may fit no layer: then `self.shapes` of what is returned differs from it."""

    def init(self, base: nn.Module, tensors: Mapping[str, Tensor], generator: Generator) -> None:
        """Fills the tensors, which are zero, with a change of zero, drawing from the CPU's `generator` alone."""

    def layer(self, base: nn.Module, tensors: Mapping[str, nn.Parameter], settings: LayerSettings) -> AdapterLayer:
        """The layer to put in the place of `base`. The tensors are matrices: convolutions' are flattened to (rows,
        inputs * height * width)."""

    def delta(self, weight: Tensor, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        """The change of the layer's weight, in the weight's shape."""

    def norm(self, tensors: Mapping[str, Tensor], settings: LayerSettings) -> Tensor:
        """The Frobenius norm of the change, 0-d, on the device of the tensors, which are matrices as `layer` gets them.

        Of kinds in LIMITED_NORMS only: there the change is linear in every tensor.
        """

    def scaled(self, tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
        """Tensors that make the same change where their `file_scale` is divided by `factor`."""

    def file_alpha(self, shapes: Mapping[str, tuple[int, ...]], settings: LayerSettings) -> float:
        """The alpha in files, with which readers apply the change of tensors of these shapes as trained."""

    def file_scale(self, shapes: Mapping[str, tuple[int, ...]], alpha: float | None) -> float:
        """The factor of the change that readers take from a file's alpha, or from there being none: alpha / rank and 1,
        if the kind is read like LoRA."""


class AdapterLayer(nn.Module):
    """A frozen layer and its change. Kinds implement `changed`, or `applied` where both are made at once.

    Dropout draws from torch's global generators, which `engine.step` seeds.
    """

    def __init__(self, base: nn.Module, settings: LayerSettings) -> None:
        super().__init__()
        self.base = base  # may be replaced by a faster form of itself
        self.has_rows = base.get_parameter("weight").ndim == 2  # a linear layer
        self.dropout = settings.dropout
        self.rank_dropout = settings.rank_dropout
        self.module_dropout = settings.module_dropout
        self.dropout_active = False  # of all three kinds
        self.multiplier = 1.0  # of the change: 0 shows the base model

    def forward(self, x: Tensor) -> Tensor:
        if self.has_rows and x.ndim > 3:  # four dimensions are a picture's below
            return self.applied(x.flatten(1, -2)).reshape(*x.shape[:-1], -1)
        return self.applied(x)

    def applied(self, x: Tensor) -> Tensor:
        """The output of the changed layer for (B, in), (B, T, in) or pictures (B, in, h, w)."""
        y: Tensor = self.base(x)
        if self.multiplier == 0:
            return y
        if not self.dropout_active:
            return self.changed(y, x)
        changed = self.changed(y, dropout(x, self.dropout) if self.dropout else x)
        if not self.module_dropout:
            return changed
        # Chosen on the device, so that nothing waits for it, and so that there is a gradient where no layer is kept.
        is_kept = torch.rand((), device=y.device) >= self.module_dropout
        return torch.where(is_kept, changed, y)

    @property
    def draws(self) -> bool:
        """Whether it draws random numbers in training."""
        return self.dropout > 0 or self.rank_dropout > 0 or self.module_dropout > 0

    def use(self, copy: WorkingCopy) -> None:
        """Lets the layer take its numbers from a working copy, while that is open. Kinds whose changes are made in
        float32 do not."""

    def join(self, layers: Sequence[AdapterLayer]) -> JoinedLayers | None:  # noqa: ARG002
        """Joins the products of these layers, this the first of them, which have the same input; None where they stay
        apart."""
        return None

    def drop_ranks(self, low_rank: Tensor) -> Tensor:
        """A product of low rank, (B, ..., rank) or (B, rank, h, w), with a share of its ranks zero in training and the
        others enlarged, so that the mean stays; they are the same for all rows or pixels of an example."""
        if not (self.dropout_active and self.rank_dropout):
            return low_rank
        shape = [low_rank.shape[0], *[1] * (low_rank.ndim - 1)]
        rank = 1 if low_rank.ndim == 4 else -1
        shape[rank] = low_rank.shape[rank]
        return low_rank * self._mask(low_rank, shape)

    def drop_columns(self, matrix: Tensor) -> Tensor:
        """A matrix (rows, rank) as `drop_ranks`, the same for all examples: for formulas that make the weight."""
        return matrix * self._mask(matrix, matrix.shape[1:]) if self.dropout_active and self.rank_dropout else matrix

    def _mask(self, like: Tensor, shape: Sequence[int]) -> Tensor:
        return dropout(torch.ones(shape, device=like.device, dtype=like.dtype), self.rank_dropout)

    @property
    def is_whole(self) -> bool:
        """Whether the change has the base's inputs and counts as it is, so that a layer may apply both at once."""
        return self.multiplier == 1 and not (self.dropout_active and (self.dropout > 0 or self.module_dropout > 0))

    def changed(self, y: Tensor, x: Tensor) -> Tensor:
        """`y`, the base's output, with `multiplier` times the change of the input `x`; both of the base's precision."""
        raise NotImplementedError


def by_layer(tensors: Mapping[str, Tensor], kind: AdapterKind) -> dict[str, dict[str, Tensor]]:
    """{"<layer>.<suffix>": tensor} as {layer: {suffix: tensor}}.

    Raises:
        KeyError: a name without a suffix of this kind.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        suffix = next((suffix for suffix in kind.suffixes if name.endswith(f".{suffix}")), None)
        if suffix is None:
            raise KeyError(name)
        layers.setdefault(name.removesuffix(f".{suffix}"), {})[suffix] = tensor
    return layers
