"""Activations that are computed twice instead of kept: the bits are the same, in less memory and more time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from lorasmith.families import kept_results

Checkpointing = Literal["none", "elementwise", "feed-forward", "selective", "block", "offload"]
"""The parts that are computed twice: none; every resnet and transformer block, but for its products and attention; the
feed-forward layers of transformer blocks, which are wide and quick; every block, but for results that are small beside
what it takes to compute them; all of every block; the same, with the inputs of the blocks in the computer's memory
meanwhile."""
_KEPT = {"elementwise": kept_results.is_of_layer, "selective": kept_results.is_narrow}


def checkpoint_blocks(denoiser: Any, level: Checkpointing, *, feed_forwards: tuple[str, ...] = ("ff",)) -> None:
    """Sets what a UNet or a transformer of diffusers computes twice.

    Args:
        feed_forwards: last parts of the names of the modules that are feed-forward layers.
    """
    denoiser.disable_gradient_checkpointing()
    # An adapter's layers may draw; the generators need not be kept for a second computation that draws nothing, and
    # cannot be read while CUDA graphs are recorded.
    draws = any(getattr(module, "draws", False) for module in denoiser.modules())
    twice = partial(_computed_twice, preserve_rng_state=draws)
    for module in _feed_forwards(denoiser, feed_forwards):
        vars(module).pop("forward", None)
        if level == "feed-forward":
            module.forward = partial(twice, type(module).forward.__get__(module))
    if level in _KEPT:
        denoiser.enable_gradient_checkpointing(partial(twice, context_fn=partial(kept_results.contexts, _KEPT[level])))
    if level == "block":
        denoiser.enable_gradient_checkpointing(twice)
    if level == "offload":
        denoiser.enable_gradient_checkpointing(partial(_computed_twice_from_afar, preserve_rng_state=draws))


def _feed_forwards(denoiser: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    return [module for name, module in denoiser.named_modules() if name.rpartition(".")[2] in names]


def _computed_twice(function: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    return checkpoint(function, *inputs, use_reentrant=False, **named)


def _computed_twice_from_afar(function: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    with save_on_cpu(pin_memory=any(isinstance(value, Tensor) and value.is_cuda for value in inputs)):
        return _computed_twice(function, *inputs, **named)
