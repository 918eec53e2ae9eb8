"""Stand-ins for objects that old checkpoints hold beside their weights: numpy's numbers, and a class of a training
library.

Torch's unpickler refuses unknown objects. These types of ours replace them while a checkpoint is loaded, and run
nothing of numpy: a number becomes nothing, since no weight is stored in that form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Number:
    """Replaces a number of numpy."""

    def __init__(self, *_parts: Any) -> None:
        pass


class NumberType:
    """Replaces a dtype of numpy: only built, never used."""

    def __init__(self, *_parts: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


class Callback:
    """Replaces a class of pytorch_lightning, which is the key of a table in SD 1.x's first checkpoints."""


def text_bytes(text: Any, _encoding: Any = None) -> bytes:
    """Replaces `_codecs.encode`, by which protocol 2 stores bytes as text, and which looks up any codec by name."""
    return text.encode("latin-1", "replace") if isinstance(text, str) else b""


STAND_INS: list[tuple[Callable[..., Any], str]] = [
    (Number, "numpy.core.multiarray.scalar"),
    (Number, "numpy._core.multiarray.scalar"),
    (NumberType, "numpy.dtype"),
    (text_bytes, "_codecs.encode"),
    (Callback, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]
"""For torch.serialization.safe_globals, as (type, the name in the file)."""
