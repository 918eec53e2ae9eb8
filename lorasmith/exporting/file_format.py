"""The bytes of a safetensors file, the same every time: the library orders the metadata by chance.

Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

# The types a LoRA is saved in, and the order in which the library lays them out.
_TYPES = {torch.float32: ("F32", 0), torch.bfloat16: ("BF16", 1), torch.float16: ("F16", 2)}
MAX_HEADER = 100_000_000  # what readers accept


def header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Length and header of the file, metadata first and sorted, so that it begins with `{"`."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in _in_file_order(tensors):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype][0], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def data_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The data section: the numbers, little-endian, in the order of the library's own writer."""
    return b"".join(
        tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name in _in_file_order(tensors)
    )


def split_file(content: bytes) -> tuple[dict[str, str], bytes, memoryview]:
    """(metadata, header text, data section) of a whole file.

    Raises:
        ValueError: the header cannot be read.
    """
    if len(content) < 8:
        raise ValueError("no header")
    (length,) = struct.unpack("<Q", content[:8])
    if length > min(MAX_HEADER, len(content) - 8):
        raise ValueError("header longer than the file")
    text = content[8 : 8 + length]
    header = json.loads(text)
    metadata = header.get("__metadata__", {})
    return metadata, text, memoryview(content)[8 + length :]


def _in_file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    return sorted(tensors, key=lambda name: (_TYPES[tensors[name].dtype][1], name.encode()))
