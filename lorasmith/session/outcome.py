"""Whether a start has learned anything, and whether the file holds it. Knows tensors and the file's precision only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lorasmith.adapters.flat import FlatAdapter

Notice = tuple[str, dict[str, Any]]  # (code, fields) of a warning


def digest_of(adapter: FlatAdapter) -> str:
    """SHA-256 of the trained numbers."""
    return hashlib.sha256(adapter.flat.detach().cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


def notice_of_training(adapter: FlatAdapter, *, before: str, steps: int, lr: float) -> list[Notice]:
    """That so many steps have changed nothing, as with a learning rate of 0."""
    if steps <= 0 or digest_of(adapter) != before:
        return []
    return [("nothing_trained", {"steps": steps, "lr": lr})]


def notice_of_file(tensors: Mapping[str, Tensor], precision: torch.dtype) -> list[Notice]:
    """That matrices have become zero in the file, as their numbers are too small for its precision."""
    matrices = [tensor for tensor in tensors.values() if tensor.ndim >= 2 and bool(tensor.any())]
    zero = sum(not bool(one.to(precision).any()) for one in matrices)
    name = str(precision).removeprefix("torch.")
    return [("export_zeros", {"count": zero, "all": len(tensors), "precision": name})] if zero else []
