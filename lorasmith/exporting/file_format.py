"""Writes the bytes of a safetensors file, the same bytes every time: the library orders the metadata at random.

Knows nothing of what the tensors mean. Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

# The data types that files are saved in: name, and place in the order in which the library lays tensors out.
_TYPES = {torch.float32: ("F32", 0), torch.bfloat16: ("BF16", 1), torch.float16: ("F16", 2)}
MAX_HEADER = 100_000_000  # bytes; the library refuses longer headers


def header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The length and the header of the file. The metadata are first, so that the JSON begins with `{"`, and sorted."""
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
    """The data section: all tensors, little-endian, in the order of the library's own writer."""
    return b"".join(
        tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name in _in_file_order(tensors)
    )


def split_file(content: bytes) -> tuple[dict[str, str], bytes, memoryview]:
    """Splits a whole file into its metadata, the text of its header and its data section.

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
