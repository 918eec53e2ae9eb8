"""Captions as Anima has them: what Qwen3 makes of a caption, without a template, asked with the caption's T5 tokens.

The conditioner, part of the denoiser's file and frozen here, has a vector for each T5 token, which attends to Qwen3's
states. Pipelines pad both in a batch and mask the padding: a caption alone gives the same numbers without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.errors import ModelError
from lorasmith.families import clip
from lorasmith.families.anima.layout import MOST
from lorasmith.families.loading import Build
from lorasmith.families.qwen_text import hidden_states
from lorasmith.libraries import importing_library

_BYTES = 256  # letters of a vocabulary of bytes
_PIECES = 8  # for each byte of a caption, T5 has fewer: a word has a mark of its own, and signs become several letters


def conditioner_builder() -> Build:
    """Imports diffusers; the function that builds an AnimaTextConditioner on the meta device except the frequencies of
    its positions, which files do not hold."""
    from diffusers import AnimaTextConditioner
    from diffusers.models.condition_embedders.condition_embedder_anima import AnimaRotaryEmbedding

    def build(config: Mapping[str, Any]) -> nn.Module:
        with torch.device("meta"):
            conditioner: nn.Module = AnimaTextConditioner.from_config(dict(config))
        settings: Any = conditioner.config
        conditioner.rotary_emb = AnimaRotaryEmbedding(settings.model_dim // settings.num_attention_heads)
        return conditioner

    return build


def qwen_tokenizer(folder: Path, *, source: Path) -> Any:
    """transformers' Qwen2Tokenizer from a folder.

    Raises:
        ModelError: `model_tokenizer`, also where it has no letters: transformers makes a tokenizer of a folder without
            a vocabulary too.
    """
    with importing_library():
        from transformers import Qwen2Tokenizer

    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("model_tokenizer", path=str(source)) from error
    if len(tokenizer) < _BYTES:
        raise ModelError("model_tokenizer", path=str(source))
    return tokenizer


def qwen_ids(tokenizer: Any, caption: str, tokens: int) -> Tensor:
    """(T,) int64: the caption, cut after `tokens` tokens."""
    return torch.tensor(tokenizer(caption, truncation=True, max_length=tokens)["input_ids"], dtype=torch.int64)


def t5_ids(tokenizer: Any, caption: str, tokens: int) -> Tensor:
    """(T,) int64: the caption, cut after `tokens` tokens, and the end; both at most 512."""
    most = min(tokens + 1, MOST)
    return torch.tensor(tokenizer(caption, truncation=True, max_length=most)["input_ids"], dtype=torch.int64)


def first_unseen_tag(qwen: Callable[[], Any], t5: Callable[[], Any], caption: str, *, tokens: int) -> str:
    """The first tag of a caption that either tokenizer cuts off, whole or in part; "" where neither does."""

    def counter() -> Callable[[int], bool]:
        counted = ((qwen(), tokens), (t5(), min(tokens + 1, MOST)))
        return lambda end: any(len(tokenize(caption[:end])["input_ids"]) > most for tokenize, most in counted)

    return clip.first_tag_cut(caption, counter, tokens=tokens // _PIECES)


@torch.no_grad()
def encode(encoder: Any, conditioner: Any, qwen: Tensor, t5: Tensor) -> Tensor:
    """Tokens of Qwen3 and of T5, (T,) each -> (T of T5, width), in the conditioner's precision.

    Qwen3's states are those behind its final norm. An empty caption has none: zeros stand for them.
    """
    if len(qwen):
        states = hidden_states(encoder, qwen)[-1]
    else:
        states = torch.zeros(1, encoder.config.hidden_size, device=encoder.device)
    found: Tensor = conditioner(states[None].to(conditioner.dtype), t5[None].to(conditioner.device))
    return found[0, : len(t5)]
