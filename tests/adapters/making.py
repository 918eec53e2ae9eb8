"""Adapters made in a line, and how their parameters lie in the flat buffers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.targets import TargetModule


def attached(
    targets: Sequence[TargetModule],
    *,
    kind: str = "lora",
    rank: int = 2,
    alpha: float | None = None,
    dropout: float = 0.0,
    rank_dropout: float = 0.0,
    module_dropout: float = 0.0,
    seed: int = 1,
) -> FlatAdapter:
    """An adapter with the same settings for every target; alpha is the rank unless given."""
    alpha = float(rank) if alpha is None else alpha
    settings = LayerSettings(rank, alpha, dropout, rank_dropout, module_dropout)
    return FlatAdapter.attach(adapter_kind(kind), targets, {target.name: settings for target in targets}, seed=seed)


def attached_to_all(model: nn.Sequential, **settings: Any) -> FlatAdapter:
    """An adapter on all layers of `model`, called "denoiser.0", "denoiser.1"."""
    targets = [TargetModule(f"denoiser.{name}", "denoiser", model, name) for name, _ in model.named_children()]
    return attached(targets, **settings)


def padding_of(views: Sequence[Tensor], buffer: Tensor) -> Tensor:
    """The numbers of `buffer` that belong to no view; fails where views overlap, are out of order or out of it."""
    is_padding = torch.ones(len(buffer), dtype=torch.bool)
    end = 0
    for view in views:
        start = (view.data_ptr() - buffer.data_ptr()) // buffer.element_size()
        assert end <= start < end + 16, "views in order, at most 60 bytes apart"
        end = start + view.numel()
        assert torch.equal(view.detach().flatten(), buffer[start:end])
        is_padding[start:end] = False
    return buffer[is_padding]
