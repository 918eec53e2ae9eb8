"""What must survive: nothing else is in a state, and nothing here is derived."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.engine.loss_scaler import LossScaler


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the present pictures, batch size and accumulation began: positions count from here."""

    step: int
    epoch: int


@dataclass(slots=True)
class TrainState:
    """`step == 0` is an untouched adapter."""

    step: int  # optimizer updates completed
    adapter: FlatAdapter
    optimizer: Optimizer
    scaler: LossScaler | None  # fp16 only
    origin: Origin
    micro_split: int = 1  # slices a micro-batch is cut into since memory ran out; 1: whole
    gradient_checkpointing: bool = False  # also switched on when memory ran out
    found_inf: Tensor | None = None  # on the device: a step was not finite, so none since was applied; never saved set

    def counters(self) -> dict[str, Any]:
        """All but the tensors, as plain values."""
        return {
            "step": self.step,
            "origin": {"step": self.origin.step, "epoch": self.origin.epoch},
            "micro_split": self.micro_split,
            "gradient_checkpointing": self.gradient_checkpointing,
            "scaler": None
            if self.scaler is None
            else {"scale": self.scaler.scale, "good_steps": self.scaler.good_steps},
        }

    def restore(self, counters: Mapping[str, Any], adapter: Mapping[str, Tensor], optimizer: dict[str, Any]) -> None:
        """The way back, into parts that were built anew."""
        self.step = counters["step"]
        self.origin = Origin(**counters["origin"])
        self.micro_split = counters["micro_split"]
        self.gradient_checkpointing = counters["gradient_checkpointing"]
        if self.scaler is not None and counters["scaler"] is not None:
            self.scaler = LossScaler(**counters["scaler"])
        self.adapter.load_tensors(adapter)
        self.optimizer.load_state_dict(optimizer)
