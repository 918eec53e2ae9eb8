"""What a weights file says of itself in its first bytes: names, types, shapes and places of its tensors.

Reads no tensor, unpickles nothing, and knows no model.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeGuard

from lorasmith.errors import ModelError

MAX_HEADER_BYTES = 100_000_000
"""As the safetensors format has it."""

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a safetensors file."""

    dtype: str  # a key of DTYPE_BYTES
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a safetensors file, checked against the file's size."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def file_kind(path: Path) -> Literal["safetensors", "pickle"]:
    """Which of the two formats the file has, by its first bytes, never by its name.

    Raises:
        ModelError: `model_unreadable`, `model_truncated` (empty, or a zip archive without its end), `model_unknown`.
    """
    start = _read_start(path, 16)
    if not start:
        raise ModelError("model_truncated", path=str(path), size=0)
    if start[:4] == b"PK\x03\x04":
        _check_torch_archive(path)
        return "pickle"
    if start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):  # PROTO of a pickle
        return "pickle"
    if start[8:9] == b"{":
        return "safetensors"
    raise ModelError("model_unknown", path=str(path))


def read_header(path: Path) -> Header:
    """The header of a safetensors file: every tensor inside the file, none overlapping, none missing its end.

    Raises:
        ModelError: `model_unreadable`, `model_unknown`, `model_truncated`, `model_damaged`.
    """
    if file_kind(path) != "safetensors":
        raise ModelError("model_unknown", path=str(path))
    size = path.stat().st_size
    start = _read_start(path, 8)
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        raise ModelError("model_damaged", path=str(path), where="header length")
    if 8 + length > size:
        raise ModelError("model_truncated", path=str(path), size=size)
    text = _read_start(path, 8 + length)[8:]
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError("model_damaged", path=str(path), where="header") from error
    if not isinstance(content, dict):
        raise ModelError("model_damaged", path=str(path), where="header")
    metadata = content.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())):
        raise ModelError("model_damaged", path=str(path), where="__metadata__")
    tensors = {name: _tensor_info(path, name, entry, 8 + length) for name, entry in content.items()}
    _check_places(path, tensors, begin=8 + length, size=size)
    return Header(path, tensors, metadata)


def _tensor_info(path: Path, name: str, entry: Any, begin: int) -> TensorInfo:
    damaged = ModelError("model_damaged", path=str(path), where=name)
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise damaged
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise damaged
    if offsets[1] - offsets[0] != prod(shape) * DTYPE_BYTES[dtype]:
        raise damaged
    return TensorInfo(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and number >= 0 for number in value)


def _check_places(path: Path, tensors: Mapping[str, TensorInfo], *, begin: int, size: int) -> None:
    """The tensors lie one after the other, from the header's end to the end of the file."""
    expected = begin
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != expected:
            raise ModelError("model_damaged", path=str(path), where=name)
        expected = info.end
    if expected > size:
        raise ModelError("model_truncated", path=str(path), size=size)
    if expected < size:
        raise ModelError("model_damaged", path=str(path), where="end")


def _check_torch_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ModelError("model_truncated", path=str(path), size=path.stat().st_size) from error
    if not any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        raise ModelError("model_unknown", path=str(path))


def _read_start(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise ModelError("model_unreadable", path=str(path), reason=error.strerror or str(error)) from error
