"""The attention of a UNet in as few operations as it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class PlainAttention:
    """A processor of diffusers' attention: its own to the bit, without the division of the output by 1.

    `attend` is the function of query, key and value, (B, heads, N, d); a device may have another.
    """

    def __init__(self) -> None:
        self.attend: Callable[[Tensor, Tensor, Tensor], Tensor] = scaled_dot_product_attention

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """(B, N, C) -> (B, N, C); names are diffusers'."""
        assert attention_mask is None and hidden_states.ndim == 3
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in (query, key, value))
        attended = self.attend(query, key, value).transpose(1, 2).flatten(2)
        result: Tensor = attn.to_out[1](attn.to_out[0](attended))
        return result


def use_plain_attention(unet: nn.Module) -> None:
    """Sets it for the attentions of a UNet that have nothing besides: no norm, residual or factor of their own."""
    from diffusers.models.attention_processor import Attention

    for module in unet.modules():
        if isinstance(module, Attention) and _is_plain(module):
            module.set_processor(PlainAttention())


def _is_plain(attention: Any) -> bool:
    parts = ("spatial_norm", "group_norm", "norm_cross", "norm_q", "norm_k")
    has_parts = any(getattr(attention, name, None) for name in parts)
    return not (has_parts or attention.residual_connection) and attention.rescale_output_factor == 1
