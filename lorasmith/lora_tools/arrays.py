"""Tensors of safetensors files as arrays of numpy, which has no bfloat16 and no 8-bit floats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lorasmith.families.headers import DTYPE_BYTES, TensorInfo

Array = NDArray[np.float32]

_PLAIN = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_EIGHT_BITS = {"F8_E4M3": (4, 3, 7), "F8_E5M2": (5, 2, 15)}  # bits of exponent and fraction, bias
FLOATS = frozenset({"F64", "F32", "F16", "BF16", *_EIGHT_BITS})


def read_bytes(file: BinaryIO, info: TensorInfo) -> bytes:
    """The bytes of a tensor."""
    file.seek(info.start)
    return file.read(info.end - info.start)


def read_array(file: BinaryIO, info: TensorInfo) -> Array:
    """A tensor as float32; what float32 cannot hold becomes infinite."""
    data = read_bytes(file, info)
    if info.dtype == "BF16":  # the upper half of a float32
        flat = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif info.dtype in _EIGHT_BITS:
        flat = _eight_bit_values(info.dtype)[np.frombuffer(data, np.uint8)]
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            flat = np.frombuffer(data, _PLAIN[info.dtype]).astype(np.float32)
    return flat.reshape(info.shape)


def to_bytes(array: Array, dtype: str) -> bytes:
    """The bytes of float32 numbers in a type of FLOATS but those of 8 bits, rounded to the nearest, ties to even; what
    the type cannot hold becomes infinite."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
        quiet_nan = (bits >> 16) | np.uint32(0x40)
        return np.where(np.isnan(array), quiet_nan, rounded).astype("<u2").tobytes()
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(array).astype(_PLAIN[dtype]).tobytes()


@cache
def _eight_bit_values(dtype: str) -> Array:
    """The 256 numbers of a type of 8 bits."""
    exponent_bits, fraction_bits, bias = _EIGHT_BITS[dtype]
    codes = np.arange(256)
    exponent = (codes >> fraction_bits) & (2**exponent_bits - 1)
    fraction = (codes & (2**fraction_bits - 1)) / 2**fraction_bits
    values = np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))
    if dtype == "F8_E5M2":  # has infinities, as IEEE 754 orders
        values = np.where(exponent == 31, np.where(fraction == 0, np.inf, np.nan), values)
    else:
        values = np.where((codes & 0x7F) == 0x7F, np.nan, values)
    return (values * np.where(codes & 0x80, -1, 1)).astype(np.float32)


def header_bytes(entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The length and the header of a file with these tensors (type, shape), in this order; metadata first, sorted."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, (dtype, shape) in entries.items():
        end = offset + int(np.prod(shape, dtype=np.int64)) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
