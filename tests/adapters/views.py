"""How an adapter's parameters lie in its flat buffers."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
