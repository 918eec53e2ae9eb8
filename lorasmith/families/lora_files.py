"""Reads rank and alpha of a LoRA file, and whether it holds layers of a text encoder. Reads no tensor but the alphas,
and needs no torch.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from lorasmith.families.headers import TensorInfo, read_header

_DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight")
_FORMS = {"F64": "<d", "F32": "<f", "F16": "<e"}


@dataclass(frozen=True, slots=True)
class LoraShape:
    """The rank and alpha of all pairs of matrices; None where pairs differ, or where the file has no such number."""

    rank: int | None
    alpha: float | None
    has_text_encoder: bool


def lora_shape(path: Path) -> LoraShape:
    """The shape of a file with the names of sd-scripts, PEFT or diffusers.

    Raises:
        ModelError: no safetensors file, or a damaged file.
    """
    tensors = read_header(path).tensors
    ranks = {info.shape[0] for name, info in tensors.items() if name.endswith(_DOWN) and info.shape}
    with path.open("rb") as file:
        alphas = set()
        for name, info in tensors.items():
            if name.endswith(".alpha") and math.prod(info.shape) == 1:
                file.seek(info.start)
                alphas.add(_number(info, file.read(info.end - info.start)))
    rank = ranks.pop() if len(ranks) == 1 else None
    alpha = alphas.pop() if len(alphas) == 1 else None
    usable = alpha if alpha is not None and math.isfinite(alpha) and alpha > 0 else None
    return LoraShape(rank, usable, any(name.startswith(("lora_te", "text_encoder.")) for name in tensors))


def _number(info: TensorInfo, data: bytes) -> float:
    if info.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    if info.dtype not in _FORMS:
        return math.nan
    return float(struct.unpack(_FORMS[info.dtype], data)[0])
