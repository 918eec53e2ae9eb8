"""Captions as FLUX.1 has them: T5's states, padded to a fixed length, and CLIP's vector of the whole caption.

Neither the encoder nor the denoiser masks the padding, so that what T5 makes of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.families import clip
from lorasmith.families.flux1.layout import LENGTH
from lorasmith.families.loading import Build

MOST = LENGTH - 1
"""Tokens of a caption in T5, besides the end."""
_PIECES = 8  # for each byte of a caption, T5 has fewer tokens


def t5_builder() -> Build:
    """Imports transformers; the function that builds T5's encoder on the meta device."""
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Stack

    def build(config: Mapping[str, Any]) -> nn.Module:
        known = {name: value for name, value in config.items() if name not in ("model_type", "dtype")}
        settings = T5Config(**{**known, "is_encoder_decoder": False, "is_decoder": False, "use_cache": False})
        with torch.device("meta"):
            encoder: nn.Module = T5Stack(settings)
        return encoder

    return build


def t5_ids(tokenizer: Any, caption: str, *, tokens: int) -> Tensor:
    """(T,) int64: the caption, cut after `tokens` tokens, and the end."""
    found = tokenizer(caption, truncation=True, max_length=tokens + 1)["input_ids"]
    return torch.tensor(found, dtype=torch.int64)


def first_unseen_tag(tokenizer: Callable[[], Any], caption: str, *, tokens: int) -> str:
    """The first tag of a caption that T5 cuts off, whole or in part; "" where none is. CLIP sees 75 tokens at most, and
    is not asked."""

    def counter() -> Callable[[int], bool]:
        tokenize = tokenizer()
        return lambda end: len(tokenize(caption[:end])["input_ids"]) > tokens + 1

    return clip.first_tag_cut(caption, counter, tokens=tokens // _PIECES)


@torch.no_grad()
def encode_t5(encoder: Any, ids: Tensor, padding: int) -> Tensor:
    """(T,) tokens -> (LENGTH, width), in the encoder's precision."""
    padded = torch.full((LENGTH,), padding)
    padded[: len(ids)] = ids
    states: Tensor = encoder(input_ids=padded[None].to(encoder.device)).last_hidden_state[0]
    return states


@torch.no_grad()
def encode_clip(encoder: Any, ids: Tensor) -> Tensor:
    """(T,) tokens, padded -> (width,): the state at the end of the caption, through the final norm."""
    pooled: Tensor = clip.encoder_output(encoder, ids[None]).pooler_output[0]
    return pooled
