"""Captions as FLUX.2 klein has them: the chat template of Qwen3 with an empty thought, padded to a fixed length.

The denoiser attends to the padding too, so that what the text encoder makes of it is kept: it follows from the caption
and the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lorasmith.families.flux2_klein.layout import LENGTH
from lorasmith.families.qwen_text import Template, hidden_states

_STARTS = 3
TEMPLATE = Template(
    before="<|im_start|>user\n",
    after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    starts=_STARTS,
    ends=9,
    most=LENGTH - _STARTS,
)


def token_ids(tokenizer: Any, caption: str, *, tokens: int) -> Tensor:
    """(T,) int64: the caption in its template. The longest captions take the place of the template's end, as in the
    pipeline."""
    return TEMPLATE.token_ids(tokenizer, caption, tokens=tokens)[:LENGTH]


def encode(encoder: Any, ids: Tensor, padding: int, layers: Sequence[int]) -> Tensor:
    """(T,) tokens -> (LENGTH, layers * width), in the encoder's precision: the states after these layers, side by side;
    also those of the padding, which sees the caption and not itself."""
    padded = torch.full((LENGTH,), padding)
    padded[: len(ids)] = ids
    states = hidden_states(encoder, padded, torch.arange(LENGTH) < len(ids))
    return torch.cat([states[layer] for layer in layers], dim=-1)
