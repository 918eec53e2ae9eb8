"""Captions as Krea 2's text encoder, Qwen3-VL, reads them, and the layers of it that the denoiser takes.

The pipeline pads a caption before the end of the template and has the encoder count positions without the padding. A
caption alone, as it is encoded here, gives the same numbers without the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.errors import ModelError
from lorasmith.families import clip
from lorasmith.families.loading import Build
from lorasmith.families.weights import TextSettings
from lorasmith.libraries import importing_library

BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
"""The template around a caption, Qwen-Image's."""
DROPPED = 34
"""The tokens of BEFORE: the encoder reads them, the denoiser does not."""
_ENDING = 5
MOST = 512 - _ENDING
"""Tokens of a caption: those of the denoiser's text without AFTER."""


def text_builder() -> Build:
    """Imports transformers; the function that builds the text model of Qwen3-VL, without its eyes, on the meta device
    except the frequencies of its positions, which files do not hold."""
    from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig

    def build(config: Mapping[str, Any]) -> nn.Module:
        left_out = ("model_type", "dtype")
        known = {name: value for name, value in config["text_config"].items() if name not in left_out}
        settings = Qwen3VLTextConfig(**known)
        with torch.device("meta"):
            encoder = qwen.Qwen3VLTextModel(settings)
        encoder.rotary_emb = qwen.Qwen3VLTextRotaryEmbedding(settings)
        return encoder

    return build


def tokenizer_from(folder: Path, *, source: Path) -> Any:
    """transformers' Qwen2Tokenizer from a folder.

    Raises:
        ModelError: `model_tokenizer`, also where the template has other tokens than the denoiser was trained with:
            transformers makes a tokenizer of a folder without a vocabulary too.
    """
    with importing_library():
        from transformers import Qwen2Tokenizer

    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("model_tokenizer", path=str(source)) from error
    if [len(tokenizer(text)["input_ids"]) for text in (BEFORE, AFTER)] != [DROPPED, _ENDING]:
        raise ModelError("model_tokenizer", path=str(source))
    return tokenizer


def caption_tokens(text: TextSettings) -> int:
    """The tokens of a caption that these settings leave."""
    return MOST if text.max_tokens is None else min(text.max_tokens, MOST)


def token_ids(tokenizer: Any, caption: str, *, tokens: int) -> Tensor:
    """(T,) int64: the caption in its template, cut after `tokens` tokens of its own."""
    words = tokenizer(BEFORE + caption, truncation=True, max_length=DROPPED + tokens)["input_ids"]
    return torch.tensor([*words, *tokenizer(AFTER)["input_ids"]])


def first_unseen_tag(tokenizer: Callable[[], Any], caption: str, *, tokens: int) -> str:
    """The first tag of a caption that is cut off after `tokens` tokens, whole or in part; "" where none is."""

    def counter() -> Callable[[int], bool]:
        tokenize, most = tokenizer(), DROPPED + tokens
        return lambda end: len(tokenize(BEFORE + caption[:end])["input_ids"]) > most

    return clip.first_tag_cut(caption, counter, tokens=tokens)


@torch.no_grad()
def encode(encoder: Any, ids: Tensor, layers: Sequence[int]) -> Tensor:
    """(T,) tokens -> (T - DROPPED, layers, width), in the encoder's precision: the states after these layers, where 0
    is what goes into the first."""
    states = encoder(input_ids=ids[None].to(encoder.device), use_cache=False, output_hidden_states=True).hidden_states
    return torch.stack([states[layer][0, DROPPED:] for layer in layers], dim=1)
