"""Reads the numbers of a small tensor of a safetensors file, for recognizers: needs no torch."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from lorasmith.families.headers import TensorInfo

MAX_BYTES = 2**20

_FORMS = {"F64": "d", "F32": "f", "F16": "e"}


def read_numbers(path: Path, tensors: Mapping[str, TensorInfo], name: str) -> list[float]:
    """The numbers of the tensor, in order; none where the file has no such tensor, or a large one, or one of another
    type than the usual."""
    info = tensors.get(name)
    if info is None or info.end - info.start > MAX_BYTES:
        return []
    with path.open("rb") as file:
        file.seek(info.start)
        data = file.read(info.end - info.start)
    if info.dtype == "BF16":  # the upper half of a float32
        data = b"".join(b"\0\0" + data[place : place + 2] for place in range(0, len(data), 2))
    form = "f" if info.dtype == "BF16" else _FORMS.get(info.dtype)
    if form is None or len(data) % struct.calcsize(form):
        return []
    return list(struct.unpack(f"<{len(data) // struct.calcsize(form)}{form}", data))
