"""Captions as Krea 2 has them: the template of Qwen-Image around them, and several layers of the text encoder.

The pipeline pads a caption before the end of the template and has the encoder count positions without the padding. A
caption alone, as it is encoded here, gives the same numbers without the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lorasmith.families.qwen_text import Template, hidden_states

DROPPED = 34
"""The tokens of the template before a caption: the encoder reads them, the denoiser does not."""
_ENDING = 5
MOST = 512 - _ENDING
"""Tokens of a caption: those of the denoiser's text without the end of the template."""
TEMPLATE = Template(
    before="<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n",
    after="<|im_end|>\n<|im_start|>assistant\n",
    starts=DROPPED,
    ends=_ENDING,
    most=MOST,
)


def encode(encoder: Any, ids: Tensor, layers: Sequence[int]) -> Tensor:
    """(T,) tokens -> (T - DROPPED, layers, width), in the encoder's precision: the states after these layers."""
    states = hidden_states(encoder, ids)
    return torch.stack([states[layer][DROPPED:] for layer in layers], dim=1)
