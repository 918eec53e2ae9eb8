"""Headers of weights files (names, types, shapes and places of tensors), and the small JSON files of a model folder.

Reads no tensor, unpickles nothing, and knows no model.
"""

from __future__ import annotations

import json
import stat
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeGuard

from lorasmith.errors import ModelError

MAX_HEADER_BYTES = 32 * 2**20
"""A third of the safetensors format's own limit; Stable Diffusion 1.x has 130 KB, and metadata may take some MB."""

MAX_HEADER_PARTS = 1_000_000
"""Lists, tables and their elements: a byte of JSON can take twenty in memory."""

MAX_DIMENSIONS = 8
MAX_ARCHIVE_ENTRIES = 100_000
MAX_ARCHIVE_DIRECTORY_BYTES = 32 * 2**20
MAX_PICKLE_BYTES = 64 * 2**20
"""Size of the pickle in a zip archive, which names the tensors; their numbers are separate entries."""

NAMES_BYTES = 8 * 2**20
"""The beginning of a pickled checkpoint: names of tensors first, in an archive and without, then their numbers."""

MAX_JSON_BYTES = 16 * 2**20
MAX_TOKENIZER_BYTES = 64 * 2**20

_MIN_TEXT = 8  # characters: fewer may be the beginning of anything
_SHOWN = 120  # characters of a name in a message

_OTHER_FILES: dict[str, tuple[bytes, ...]] = {  # code -> how such files begin, in small letters
    "model_is_web_page": (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--"),
    "model_is_lfs_pointer": (b"version https://git-lfs",),
    "model_is_gguf": (b"gguf", b"ggml"),
    "model_is_archive": (b"7z\xbc\xaf\x27\x1c", b"rar!\x1a", b"\x1f\x8b", b"pk\x05\x06"),
    "model_is_picture": (b"\x89png", b"\xff\xd8\xff", b"gif8", b"riff", b"bm6"),
}

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a safetensors file."""

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
    """The format of the file, by its first bytes, never by its name.

    Raises:
        ModelError: `model_unreadable`, `model_truncated` (empty, or a zip archive without its end), `model_unknown`,
            `model_is_…` (a web page, a pointer of git-lfs, GGUF …), `model_damaged`, a zip archive that torch cannot
            have written.
    """
    check_regular(path)
    start = _read_start(path, 16)
    if not start:
        raise ModelError("model_truncated", path=str(path), size=0)
    if start[:4] == b"PK\x03\x04":
        _check_torch_archive(path)
        return "pickle"
    if start[4:9] == b"\0\0\0\0{":  # before pickles, whose first bytes a header's length may have
        return "safetensors"
    if start[0] == 0x80 and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):  # PROTO of a pickle
        return "pickle"
    if start[8:9] == b"{":
        return "safetensors"
    raise _no_weights(path)


def _no_weights(path: Path) -> ModelError:
    """The error that names what a file without weights is: often a server's answer in place of them."""
    start = _read_start(path, 512)
    for code, beginnings in _OTHER_FILES.items():
        if start.lstrip().lower().startswith(beginnings):
            return ModelError(code, path=str(path))
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:  # a character may be cut in two at the end
        text = start[: error.start].decode("utf-8") if error.start >= len(start) - 3 else ""
    if len(text) >= _MIN_TEXT and all(sign.isprintable() or sign.isspace() for sign in text):
        return ModelError("model_is_text", path=str(path), begins=" ".join(text.split())[:_SHOWN])
    return ModelError("model_unknown", path=str(path))


def check_regular(path: Path) -> None:
    """Returns where the path leads to a regular file: a pipe or a device would never end.

    Raises:
        ModelError: `model_irregular`, `model_unreadable`.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ModelError("model_unreadable", path=str(path), reason=error.strerror or str(error)) from error
    if not stat.S_ISREG(mode):
        raise ModelError("model_irregular", path=str(path))


def read_header(path: Path) -> Header:
    """Reads the header of a safetensors file; checks that every tensor lies inside the file and none overlap.

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
    if sum(map(text.count, (b",", b"[", b"{"))) > MAX_HEADER_PARTS:
        raise ModelError("model_damaged", path=str(path), where="header")
    try:
        content = json.loads(text, object_pairs_hook=_without_twins)
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
    damaged = ModelError("model_damaged", path=str(path), where=_shown(name))
    if not isinstance(entry, dict):
        raise damaged
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise damaged
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
        raise damaged
    if offsets[1] - offsets[0] != prod(shape) * DTYPE_BYTES[dtype]:
        raise damaged
    return TensorInfo(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table whose names are unique: with a repeated name, readers would disagree on which value counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is repeated")
    return found


def _shown(name: str) -> str:
    """A name from a file in a form that a message can hold."""
    return ascii(name)[1:-1][:_SHOWN]


def _check_places(path: Path, tensors: Mapping[str, TensorInfo], *, begin: int, size: int) -> None:
    """Checks that the tensors follow each other without gaps, from the header's end to the end of the file."""
    expected = begin
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != expected:
            raise ModelError("model_damaged", path=str(path), where=_shown(name))
        expected = info.end
    if expected > size:
        raise ModelError("model_truncated", path=str(path), size=size)
    if expected < size:
        raise ModelError("model_damaged", path=str(path), where="end")


def _check_torch_archive(path: Path) -> None:
    """Checks that a zip archive is like torch's: entries are stored uncompressed, so that nothing grows on reading."""
    size = path.stat().st_size
    damaged = ModelError("model_damaged", path=str(path), where="zip")
    try:
        _check_directory(path, size)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ModelError("model_truncated", path=str(path), size=size) from error
    except (ValueError, OverflowError, struct.error, NotImplementedError, OSError) as error:
        raise damaged from error
    pickles = [entry for entry in entries if entry.filename == "data.pkl" or entry.filename.endswith("/data.pkl")]
    if not pickles:
        raise ModelError("model_is_archive", path=str(path))
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        raise damaged
    if len({entry.filename for entry in entries}) != len(entries) or sum(entry.file_size for entry in entries) > size:
        raise damaged
    if any(entry.file_size > MAX_PICKLE_BYTES for entry in pickles):
        raise damaged


def pickle_mentions(path: Path, name: bytes) -> bool:
    """Whether a name occurs at the beginning of a pickle, where torch puts the names of tensors. Nothing in it is run.

    Raises:
        ModelError: `model_unreadable`.
    """
    return name in _read_start(path, NAMES_BYTES)


def _check_directory(path: Path, size: int) -> None:
    """Checks the declared length of the archive's table of contents, before Python reads it."""
    with path.open("rb") as file:
        file.seek(max(0, size - 2**16 - 22))
        tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22:
        raise zipfile.BadZipFile("no end")
    count, length = struct.unpack_from("<HI", tail, place + 10)
    long_form = tail.rfind(b"PK\x06\x06", 0, place)  # zip64, as archives over 4 GB have
    if long_form >= 0 and long_form + 48 <= len(tail):
        count, length = struct.unpack_from("<QQ", tail, long_form + 32)
    if count > MAX_ARCHIVE_ENTRIES or length > MAX_ARCHIVE_DIRECTORY_BYTES:
        raise ValueError("a table of contents that is too long")


def _read_start(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise ModelError("model_unreadable", path=str(path), reason=error.strerror or str(error)) from error


# -- small files -----------------------------------------------------------------------------------


def check_tokenizer(folder: Path) -> None:
    """Returns where a library can read the files of a tokenizer whole.

    Raises:
        ModelError: `model_damaged`, `model_irregular`, `model_unreadable`.
    """
    if not folder.is_dir():
        raise ModelError("model_damaged", path=str(folder), where="tokenizer")
    for file in sorted(folder.iterdir()):
        if not file.is_dir():
            check_regular(file)
            if file.stat().st_size > MAX_TOKENIZER_BYTES:
                raise ModelError("model_damaged", path=str(file), where="tokenizer")


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
        ModelError: `model_damaged`, `model_irregular`, `model_unreadable`.
    """
    check_regular(path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelError("model_damaged", path=str(path), where="JSON")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError("model_unreadable", path=str(path), reason=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ModelError("model_damaged", path=str(path), where="JSON") from error
    if not isinstance(content, dict):
        raise ModelError("model_damaged", path=str(path), where="JSON")
    return content
