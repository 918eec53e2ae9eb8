"""Repeated blocks of a model compiled, each shape by itself; the rest of a step stays eager."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.data.types import Batch
from lorasmith.diffusion.draw import Numbers
from lorasmith.engine.device import Device, compiled_forms, compiler_settings, generators_kept
from lorasmith.engine.execution import Execution


class CompiledExecution:
    """Eager steps over compiled blocks. A block is compiled once for each shape, before step 1: nothing depends on the
    order in which shapes come. Satisfies `Execution`."""

    def __init__(self, eager: Execution, adapter: FlatAdapter, device: Device, blocks: Sequence[nn.Module]) -> None:
        self._eager = eager
        self._adapter = adapter
        self._device = device
        with compiler_settings():
            for block in blocks:
                compile_in_training(block)

    @property
    def recorded(self) -> int:
        """The number of forms of blocks that were compiled so far, in this process."""
        return compiled_forms()

    def forward_backward(self, batch: Batch, numbers: Numbers, weight: float) -> Tensor:
        with compiler_settings():
            return self._eager.forward_backward(batch, numbers, weight)

    def prepare(self, batch: Batch, numbers: Numbers) -> None:
        """Compiles the blocks for a shape; leaves gradients and generators as they are."""
        gradient = self._adapter.gradient()
        before = gradient.clone()
        with generators_kept(self._device):
            self.forward_backward(batch, numbers, 1.0)
        gradient.copy_(before)

    def forget(self) -> None:
        """Nothing is dropped: compiled code takes no memory of the device."""


def compile_in_training(block: nn.Module) -> None:
    """Compiles a block where gradients are asked for. Evaluations, of any shapes, stay eager: they are few, and none
    must make a training wait for a compiler."""
    eager: Callable[..., Any] = block.forward
    compiled = torch.compile(eager, dynamic=False)

    def forward(*inputs: Any, **named: Any) -> Any:
        return (compiled if torch.is_grad_enabled() else eager)(*inputs, **named)

    block.forward = forward


def compile_in_another_folder() -> None:
    """Has the compiler keep its files in an empty folder of our own for the rest of this process. A process that was
    killed while it compiled, this program's or another's, leaves files that can no longer be loaded."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir
    from torch._inductor.utils import clear_caches

    folder = f"{default_cache_dir()}_lorasmith"
    shutil.rmtree(folder, ignore_errors=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    torch._dynamo.reset()
    clear_caches()


def compute_as_before(blocks: Sequence[nn.Module]) -> None:
    """Undoes `compile_in_training`."""
    for block in blocks:
        vars(block).pop("forward", None)
