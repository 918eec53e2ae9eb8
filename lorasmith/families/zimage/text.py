"""Captions as Z-Image has them: a message to the language model Qwen3, without its answer.

The pipeline cuts a caption that is too long together with the end of the message; here the end stays.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lorasmith.families.qwen_text import Template, hidden_states
from lorasmith.families.zimage.layout import LAYERS_BEHIND

STATE = -1 - LAYERS_BEHIND
"""The state of the text encoder that the denoiser takes: what goes into the last layer, before the final norm."""

_BEGINNING, _ENDING = 3, 5
TEMPLATE = Template(
    before="<|im_start|>user\n",
    after="<|im_end|>\n<|im_start|>assistant\n",
    starts=_BEGINNING,
    ends=_ENDING,
    most=512 - _BEGINNING - _ENDING,
)


def encode(encoder: Any, ids: Tensor, layers: int) -> Tensor:
    """(T,) tokens -> (T, width), in the encoder's precision: the state behind that many layers."""
    return hidden_states(encoder, ids)[layers]
