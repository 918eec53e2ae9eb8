"""The captions of families of flow matching whose only text encoder is a Qwen language model. Knows no family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorasmith.families.base import Models
from lorasmith.families.flow_transformer import FlowTransformer, padded_texts
from lorasmith.families.loading import Build
from lorasmith.families.qwen_text import Template, is_before, shortened_builder
from lorasmith.families.weights import BaseWeights, TextSettings, in_part

TEXT = "text_encoder"
EMBEDS, MASK = "prompt_embeds", "prompt_mask"


class QwenTransformer(FlowTransformer):
    """A `FlowTransformer` with captions in a template. A family adds the states of the encoder that it takes, all of
    them before the final norm."""

    template: ClassVar[Template]
    text_step: ClassVar[int] = 64
    """Tokens, of which padded texts are multiples: each length is a shape of its own to record a step for."""

    def __init__(self, weights: BaseWeights, text: TextSettings) -> None:
        super().__init__(weights, text)
        self.caption_tokens = self.template.caption_tokens(text)

    def language_config(self) -> Mapping[str, Any]:
        """The config of the language model."""
        raise NotImplementedError

    def text_layers(self) -> int | None:
        """The layers of the text encoder that are loaded: the first, as far as any state that the denoiser takes is
        behind them. None: all."""
        return None

    def encoded(self, encoder: Any, ids: Tensor) -> Tensor:
        """(T,) tokens -> the states that the denoiser takes, (tokens, …), in the encoder's precision."""
        raise NotImplementedError

    def _builder(self, component: str) -> Callable[[], Build]:
        builder = super()._builder(component)
        return partial(shortened_builder, builder, self.text_layers()) if component == TEXT else builder

    def _weights_read(self) -> BaseWeights:
        return in_part(self.weights, TEXT, partial(is_before, self.text_layers()))

    @cached_property
    def _tokenizer(self) -> Any:
        return self.template.model_tokenizer(self.weights, TEXT, rows=self.language_config()["vocab_size"])

    def encode_caption(self, encoders: Models, caption: str) -> dict[str, Tensor]:
        if TEXT not in encoders:
            return {}
        return {EMBEDS: self.encoded(encoders[TEXT], self.tokenize(caption)["token_ids"])}

    def tokenize(self, caption: str) -> dict[str, Tensor]:
        return {"token_ids": self.template.token_ids(self._tokenizer, caption, tokens=self.caption_tokens)}

    def first_unseen_tag(self, caption: str) -> str:
        return self.template.first_unseen_tag(lambda: self._tokenizer, caption, tokens=self.caption_tokens)

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != EMBEDS}
        batch[EMBEDS], batch[MASK] = padded_texts(rows, EMBEDS, self.text_step)
        return batch

    def conditioning(self, models: Models, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        return {name: inputs[name] for name in (EMBEDS, MASK)}
