"""Captions as Qwen-Image 2.1 has them: a template around them, and what the text encoder's last layer makes of them
before the final norm.

The norm is no part of the encoder here, so no version of the library can add it: with version 5 of transformers, what
it calls the last hidden state has gone through it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lorasmith.families.qwen_text import Template, hidden_states

DROPPED = 14
"""The tokens of the system's part of the template: the encoder reads them, the denoiser does not."""
TEMPLATE = Template(
    before="<|im_start|>system\nComprehend and analyze the provided prompt.<|im_end|>\n<|im_start|>user\n",
    after="<|im_end|>\n<|im_start|>assistant\n",
    starts=DROPPED + 3,
    ends=5,
    most=1024,  # the pipeline has no limit; each token takes memory as one of the picture does
)
NO_CAPTION = " "
"""The text that stands for an empty caption."""


def encode(encoder: Any, ids: Tensor) -> Tensor:
    """(T,) tokens -> (T - DROPPED, width), in the encoder's precision."""
    return hidden_states(encoder, ids)[-1][DROPPED:]
