"""The attention of a UNet, beside diffusers' own."""

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

from lorasmith.families.attention import PlainAttention, use_plain_attention


def made(**options: Any) -> Attention:
    torch.manual_seed(2)
    attention = Attention(query_dim=32, heads=4, dim_head=8, **options)
    attention.requires_grad_(False)
    return attention


@pytest.mark.parametrize("words", [None, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_gives_the_bits_of_diffusers(words: int | None, dtype: torch.dtype) -> None:
    attention = made(cross_attention_dim=words).to(dtype)
    x = torch.randn(2, 16, 32).to(dtype)
    context = None if words is None else torch.randn(2, 5, words).to(dtype)
    found: list[tuple[Tensor, Tensor]] = []
    for processor in (AttnProcessor2_0(), PlainAttention()):
        attention.set_processor(processor)
        own = x.clone().requires_grad_()
        y = attention(own, encoder_hidden_states=context)
        y.float().square().sum().backward()
        assert own.grad is not None
        found.append((y, own.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize(
    "options",
    [{"residual_connection": True}, {"rescale_output_factor": 2.0}, {"norm_num_groups": 4}, {"qk_norm": "layer_norm"}],
)
def test_attentions_with_more_keep_their_processor(options: Any) -> None:
    special, plain = made(**options), made()
    use_plain_attention(nn.ModuleList([special, plain]))
    assert isinstance(special.processor, AttnProcessor2_0)
    assert isinstance(plain.processor, PlainAttention)
