"""Results that a second computation of a block takes from the first: those of its products, or only those that are
small beside what it takes to compute them.

They are found by operator, below autograd, so that no layer knows of it. A copy is kept, since layers change what their
products made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

NARROW = 2.0  # a layer's result is narrow if it has fewer numbers than the layer's input by this factor
MOST_RANK = 256
"""Inputs up to which a product is quick: those of an adapter's rank, whose result may be as large as a layer's. No
layer of a block that is computed twice has so few."""

Rule = Callable[[int, int], bool]
"""Tells by the numbers of inputs and outputs of a product whether its result is kept."""

_aten = torch.ops.aten
_ATTENTIONS = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
)
# They are not in torch's public interface: another version may lack some.
_COSTLY = {getattr(_aten, name).default for name in ("convolution", *_ATTENTIONS) if hasattr(_aten, name)}
# The place of the weight among the arguments, and that of its inputs among its sides.
_PRODUCTS: dict[Any, tuple[int, int]] = {_aten.mm.default: (1, 0), _aten.addmm.default: (2, 0)}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # some builds of torch lack oneDNN's operators
    _PRODUCTS[torch.ops.mkldnn._linear_pointwise.default] = 1, 1


def is_of_layer(inputs: int, outputs: int) -> bool:  # noqa: ARG001 - as Rule
    """Whether a product is that of a layer, not of a rank."""
    return inputs > MOST_RANK


def is_narrow(inputs: int, outputs: int) -> bool:
    """Whether a product's result is narrow."""
    return inputs >= NARROW * outputs


def contexts(rule: Rule) -> tuple[TorchDispatchMode, TorchDispatchMode]:
    """The contexts of a block's first and second computation, as `torch.utils.checkpoint` takes them."""
    kept: list[Any] = []
    return _Keeping(kept, rule), _Taking(kept, rule)


def is_kept(operator: Any, arguments: tuple[Any, ...], rule: Rule) -> bool:
    """Whether the result of an operator is kept: of attention and convolutions, and of products by the rule."""
    if operator in _COSTLY:
        return True
    if operator not in _PRODUCTS:
        return False
    place, inputs_side = _PRODUCTS[operator]
    weight = arguments[place].shape
    return rule(weight[inputs_side], weight[1 - inputs_side])


def copied(tensor: Tensor) -> Tensor:
    return tensor.clone()


class _Keeping(TorchDispatchMode):
    def __init__(self, kept: list[Any], rule: Rule) -> None:
        super().__init__()
        self.kept, self.rule = kept, rule

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Lets blocks that are compiled stay so: none of their results is kept."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if is_kept(func, args, self.rule):
            self.kept.append(tree_map_only(Tensor, copied, result))
        return result


class _Taking(_Keeping):
    """Takes each result once, in the order in which they were kept."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return self.kept.pop(0) if is_kept(func, args, self.rule) else func(*args, **(kwargs or {}))
