"""The meter of a run: how much a step computes, and how often it waited or recorded graphs.

Model FLOPs, as they are usually counted: each product of the forward pass once, each of the backward pass once. What is
computed a second time to save memory does not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.data.types import CachedExample, Inputs
from lorasmith.families.forward_work import ForwardWork, Shapes

Sizes = tuple[tuple[str, tuple[int, ...]], ...]


def shapes_of(models: Mapping[str, nn.Module]) -> dict[str, Shapes]:
    """The shapes of all weights by component; taken before an adapter takes the place of layers."""
    return {
        component: {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        for component, model in models.items()
    }


def step_flop(work: ForwardWork, adapter: FlatAdapter) -> float:
    """Floating-point operations of training on an example: forward, the gradients of all activations that need one, and
    the gradients of the adapter."""
    frozen = sum(layer.flop * (1 if layer.sees_text else 2) for layer in work.layers.values())
    trained = 0
    for name, (spec, settings) in adapter.layers.items():
        layer = work.layers.get(name.removeprefix("denoiser."))
        if layer is None:
            continue
        if adapter.kind.name == "lora":  # forward, and the gradients of the pair and of its input
            numbers = sum(math.prod(shape) for shape in adapter.kind.shapes(spec, settings).values())
            trained += 6 * layer.positions * numbers
        else:  # the change is made as a whole matrix: its gradient is a product of full size
            trained += layer.flop
    return float(frozen + 3 * work.attention + trained)


@dataclass(slots=True)
class Meter:
    """Counts the operations of steps."""

    forward_work: Callable[[Inputs], ForwardWork]  # of an example
    adapter: FlatAdapter
    examples: Sequence[CachedExample]
    _found: dict[Sizes, float] = field(default_factory=dict)  # by the sizes of an example's inputs

    def flop(self, example_ids: Sequence[int]) -> float:
        """Floating-point operations of a step on these examples; the text encoders' are left out."""
        return math.fsum(self._of_example(self.examples[example_id].inputs) for example_id in example_ids)

    def _of_example(self, inputs: Inputs) -> float:
        sizes = tuple((name, tuple(value.shape)) for name, value in inputs.items())
        if sizes not in self._found:
            self._found[sizes] = step_flop(self.forward_work(inputs), self.adapter)
        return self._found[sizes]
