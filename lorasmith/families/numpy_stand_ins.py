"""Stands in for what old checkpoints hold beside their weights: numbers of numpy, and a class of a training library.

Torch's unpickler refuses them as it knows them not. Here they are known for the time of one load, by types of our own
that run nothing of numpy: a number becomes nothing, as no weight is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Number:
    """Where a numpy number was."""

    def __init__(self, *_parts: Any) -> None:
        pass


class NumberType:
    """Where a numpy dtype was: only built, never used."""

    def __init__(self, *_parts: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


class Callback:
    """Where a class of pytorch_lightning was, which stands in SD 1.x's first checkpoints as the key of a table."""


def text_bytes(text: Any, _encoding: Any = None) -> bytes:
    """Where protocol 2 stored bytes as text: by `_codecs.encode`, which would look up any codec by its name."""
    return text.encode("latin-1", "replace") if isinstance(text, str) else b""


STAND_INS: list[tuple[Callable[..., Any], str]] = [
    (Number, "numpy.core.multiarray.scalar"),
    (Number, "numpy._core.multiarray.scalar"),
    (NumberType, "numpy.dtype"),
    (text_bytes, "_codecs.encode"),
    (Callback, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
]
"""For torch.serialization.safe_globals, as (type, the name in the file)."""
