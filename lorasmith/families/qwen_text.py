"""Captions as the language models Qwen3 and Qwen3-VL read them, in a family's template. Knows no family.

Pipelines pad captions and mask the padding. A caption alone, as it is encoded here, gives the same numbers without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.errors import ModelError
from lorasmith.families import clip
from lorasmith.families.loading import Build
from lorasmith.families.qwen_bpe import qwen_tokenizer_files
from lorasmith.families.tokenizer_files import tokenizer_folder
from lorasmith.families.weights import BaseWeights, TextSettings
from lorasmith.libraries import importing_library


@dataclass(frozen=True, slots=True)
class Template:
    """The words around a caption."""

    before: str
    after: str
    starts: int  # tokens of `before`, of a tokenizer that fits
    ends: int  # tokens of `after`
    most: int  # tokens of a caption

    def caption_tokens(self, text: TextSettings) -> int:
        """The tokens of a caption that these settings leave."""
        return self.most if text.max_tokens is None else min(text.max_tokens, self.most)

    def token_ids(self, tokenizer: Any, caption: str, *, tokens: int) -> Tensor:
        """(T,) int64: the caption in its template, cut after `tokens` tokens of its own."""
        words = tokenizer(self.before + caption, truncation=True, max_length=self.starts + tokens)["input_ids"]
        return torch.tensor([*words, *tokenizer(self.after)["input_ids"]])

    def first_unseen_tag(self, tokenizer: Callable[[], Any], caption: str, *, tokens: int) -> str:
        """The first tag of a caption that is cut off after `tokens` tokens, whole or in part; "" where none is."""

        def counter() -> Callable[[int], bool]:
            tokenize, most = tokenizer(), self.starts + tokens
            return lambda end: len(tokenize(self.before + caption[:end])["input_ids"]) > most

        return clip.first_tag_cut(caption, counter, tokens=tokens)

    def model_tokenizer(self, weights: BaseWeights, text_encoder: str, *, rows: int) -> Any:
        """The tokenizer that belongs to a text encoder of a model: a folder's own, the texts that a single file holds,
        or Qwen3's.

        Args:
            rows: tokens that the text encoder knows.

        Raises:
            ModelError: `model_tokenizer`, also where it has more tokens than the text encoder.
        """
        with tokenizer_folder(weights, text_encoder, qwen_tokenizer_files) as folder:
            tokenizer = self.tokenizer_from(folder, source=weights.path)
        if len(tokenizer) > rows:
            raise ModelError("model_tokenizer", path=str(weights.path))
        return tokenizer

    def tokenizer_from(self, folder: Path, *, source: Path) -> Any:
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
        counts = [len(tokenizer(text)["input_ids"]) for text in (self.before, self.after)]
        if counts != [self.starts, self.ends]:
            raise ModelError("model_tokenizer", path=str(source))
        return tokenizer


def qwen3_vl_builder() -> Build:
    """Imports transformers; the function that builds the text model of Qwen3-VL, without its eyes, on the meta device
    except the frequencies of its positions, which files do not hold."""
    from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig

    def build(config: Mapping[str, Any]) -> nn.Module:
        settings = Qwen3VLTextConfig(**_known(config["text_config"]))
        with torch.device("meta"):
            encoder = qwen.Qwen3VLTextModel(settings)
        encoder.rotary_emb = qwen.Qwen3VLTextRotaryEmbedding(settings)
        return encoder

    return build


def qwen3_builder() -> Build:
    """The same of Qwen3, whose config is that of the text alone."""
    from transformers import Qwen3Config, Qwen3Model
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    def build(config: Mapping[str, Any]) -> nn.Module:
        settings = Qwen3Config(**_known(config))
        with torch.device("meta"):
            encoder = Qwen3Model(settings)
        encoder.rotary_emb = Qwen3RotaryEmbedding(settings)
        return encoder

    return build


_LAYER = re.compile(r"layers\.(\d+)\.")


def shortened_builder(builder: Callable[[], Build], layers: int | None) -> Build:
    """The function of `builder` without the layers behind the first `layers`, and without the final norm. None: with
    all layers."""
    build_whole = builder()

    def build(config: Mapping[str, Any]) -> nn.Module:
        encoder: Any = build_whole(config)
        if layers is not None:
            del encoder.layers[layers:]
        encoder.norm = nn.Identity()
        return encoder

    return build


def is_before(layers: int | None, name: str) -> bool:
    """Whether a language model that ends behind that many layers, before the final norm, has this tensor."""
    found = _LAYER.match(name)
    return not name.startswith("norm.") if found is None or layers is None else int(found[1]) < layers


@torch.no_grad()
def hidden_states(encoder: Any, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
    """(T,) tokens -> (T, width) for each state, in the encoder's precision: 0 is what goes into the first layer, the
    last has gone through the final norm. `mask`, (T,) booleans: the tokens that others see; None: all."""
    found = encoder(
        input_ids=ids[None].to(encoder.device),
        attention_mask=None if mask is None else mask[None].to(encoder.device),
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states
    return tuple(states[0] for states in found)


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("model_type", "dtype")}
