"""The layers of a model that an adapter attaches to: families and files name them, adapters replace them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """The size of a linear layer or of a convolution."""

    outputs: int
    inputs: int
    kernel: tuple[int, ...] = ()  # (height, width) of a convolution; () for a linear layer

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the layer's weight: (outputs, inputs) and the kernel."""
        return (self.outputs, self.inputs, *self.kernel)

    @property
    def has_neighbours(self) -> bool:
        """Whether it is a convolution that sees more than a single pixel: 3x3, not 1x1."""
        return any(side > 1 for side in self.kernel)


@dataclass(frozen=True, slots=True)
class TargetModule:
    """A layer inside a loaded model, with its owner, so that an adapter can put its own layer in that place."""

    name: str  # in states and name tables, the same for every version of the libraries: "denoiser.mid_block.…"
    component: str  # the model's key: "denoiser", "text_encoder"
    parent: nn.Module  # the module that owns the layer
    child: str  # the layer's attribute of `parent`
    shared_input: str = ""  # the same for layers that are called with the same tensor, one after the other; "": none

    @classmethod
    def inside(cls, model: nn.Module, path: str, *, name: str, component: str, shared_input: str = "") -> TargetModule:
        """The layer at `path` of `model`, as `get_submodule` takes it."""
        parent, _, child = path.rpartition(".")
        return cls(name, component, model.get_submodule(parent), child, shared_input)

    @property
    def module(self) -> nn.Module:
        """The layer that is in this place now."""
        return self.parent.get_submodule(self.child)

    @property
    def spec(self) -> LayerSpec:
        """The size of the layer that is in this place now, by the shape of its weight."""
        outputs, inputs, *kernel = self.module.get_parameter("weight").shape
        return LayerSpec(outputs, inputs, tuple(kernel))

    def replace_with(self, module: nn.Module) -> None:
        """Puts another layer in this place."""
        setattr(self.parent, self.child, module)
