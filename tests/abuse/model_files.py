"""Checkpoints made to be trouble: safetensors headers that lie, archives that swell, pickles that ask for the moon."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

MIB = 2**20
Row = dict[str, Any]


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def row(start: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> Row:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "length 0": (lambda: safetensors({"x": row(0, 4)}, bytes(4), length=0), "model_damaged"),
    "length 2^60": (lambda: safetensors({"x": row(0, 4)}, bytes(4), length=2**60), "model_damaged"),
    "length -1": (lambda: safetensors({"x": row(0, 4)}, bytes(4), length=2**64 - 1), "model_damaged"),
    "length one less": (lambda: safetensors({"x": row(0, 4)}, bytes(4), length=10), "model_damaged"),
    "100 MB": (lambda: safetensors(b'{"' + b"a" * 100 * MIB + b'":1}'), "model_damaged"),
    "30 MB of lists": (lambda: safetensors(b'{"a":[' + b"[]," * 10 * MIB + b"1]}"), "model_damaged"),
    "lists in lists": (lambda: safetensors(b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"), "model_damaged"),
    "few lists in lists": (lambda: safetensors(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), "model_damaged"),
    "a name twice": (
        lambda: safetensors(b'{"x":%b,"x":%b}' % ((json.dumps(row(0, 4)).encode(),) * 2), bytes(4)),
        "model_damaged",
    ),
    "overlapping": (lambda: safetensors({"x": row(0, 8), "y": row(4, 12)}, bytes(12)), "model_damaged"),
    "the same place": (lambda: safetensors({"x": row(0, 8), "y": row(0, 8)}, bytes(8)), "model_damaged"),
    "negative": (lambda: safetensors({"x": row(-8, 0, [2])}, bytes(8)), "model_damaged"),
    "beyond 2^63": (lambda: safetensors({"x": row(0, 2**66, [2**64])}, bytes(8)), "model_damaged"),
    "beyond the end": (lambda: safetensors({"x": row(0, 2**40)}, bytes(8)), "model_truncated"),
    "a product that wraps": (lambda: safetensors({"x": row(0, 0, [2**32, 2**32])}), "model_damaged"),
    "a product of a year": (lambda: safetensors({"x": row(0, 8, [10**4000] * 500)}, bytes(8)), "model_damaged"),
    "many dimensions": (lambda: safetensors({"x": row(0, 4, [1] * 5000)}, bytes(4)), "model_damaged"),
    "infinite": (
        lambda: safetensors(b'{"x":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}', bytes(8)),
        "model_damaged",
    ),
    "not a number": (
        lambda: safetensors(b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)),
        "model_damaged",
    ),
    "true": (lambda: safetensors({"x": row(0, 4, [True])}, bytes(4)), "model_damaged"),
    "no type there is": (lambda: safetensors({"x": row(0, 4, dtype="F4")}, bytes(4)), "model_damaged"),
    "half a letter as a name": (lambda: safetensors(b'{"\\ud800":1}'), "model_damaged"),
    "a name of 1 MB": (lambda: safetensors({"x" * MIB: 1}), "model_damaged"),
    "a terminal's sign as a name": (lambda: safetensors({"\x1b[2J": 1}), "model_damaged"),
    "nothing": (lambda: safetensors({}), "model_unknown"),
    "no model": (lambda: safetensors({"x": row(0, 8)}, bytes(8)), "model_unknown"),
    "configs in configs": (
        lambda: safetensors({"__metadata__": {"lorasmith.configs": "[" * 10**5}, "x": row(0, 8)}, bytes(8)),
        "model_unknown",
    ),
}


def archive(*entries: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", compression) as file:
        for name, data in entries:
            file.writestr(name, data)
    return held.getvalue()


def end_that_lies(**changed: int) -> bytes:
    """An archive whose end promises other numbers of its table of contents."""
    data = bytearray(archive(("a/data.pkl", b"x"), compression=zipfile.ZIP_STORED))
    place = data.rindex(b"PK\x05\x06")
    fields = {"count": (place + 10, "<H"), "length": (place + 12, "<I"), "offset": (place + 16, "<I")}
    for name, value in changed.items():
        struct.pack_into(fields[name][1], data, fields[name][0], value)
    return bytes(data)


def long_form() -> bytes:
    """An archive whose end is that of one over 4 GB."""
    data = end_that_lies()
    end = data.rindex(b"PK\x05\x06")
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 10**9, 10**9, 60, 0)
    where = b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1)
    return data[:end] + record + where + data[end:]


def pickled(content: Any) -> bytes:
    held = io.BytesIO()
    torch.save(content, held)
    return held.getvalue()


def npz() -> bytes:
    """As numpy writes objects: a pickle inside."""
    held = io.BytesIO()
    np.savez(held, x=np.array([{"a": 1}], dtype=object))
    return held.getvalue()


UNET = "model.diffusion_model.x"

ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb of zeros": (lambda: archive(("a/data.pkl", bytes(70 * MIB))), "model_damaged"),
    "a bomb beside": (lambda: archive(("a/data.pkl", b"x"), ("a/data/0", bytes(5 * MIB))), "model_damaged"),
    "a long pickle": (
        lambda: archive(("a/data.pkl", bytes(65 * MIB)), compression=zipfile.ZIP_STORED),
        "model_damaged",
    ),
    "an npz with objects": (lambda: npz(), "model_is_archive"),
    "no pickle": (lambda: archive(("a/b.txt", b"x")), "model_is_archive"),
    "cut": (lambda: pickled({"x": torch.zeros(9)})[:-30], "model_truncated"),
    "a table of contents of 4 GB": (lambda: end_that_lies(length=2**32 - 2), "model_damaged"),
    "a billion entries": (long_form, "model_damaged"),
    "the start of one alone": (lambda: b"PK\x03\x04" + bytes(1000), "model_truncated"),
}


def strided(*shape: int) -> torch.Tensor:
    """So many numbers, all of them the same one."""
    return torch.zeros(1).expand(*shape)


PICKLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a trillion numbers from one": (lambda: pickled({UNET: strided(10**6, 10**6)}), "model_damaged"),
    "a thousand times the same": (
        lambda: pickled(dict.fromkeys(map(str, range(1000)), torch.zeros(10**4))),
        "model_damaged",
    ),
    "without numbers": (lambda: pickled({UNET: torch.empty(9, device="meta")}), "model_damaged"),
    "sparse": (lambda: pickled({UNET: torch.zeros(9, 9).to_sparse()}), "model_damaged"),
    "complex": (lambda: pickled({UNET: torch.zeros(9, dtype=torch.complex64)}), "model_damaged"),
    "no tensors": (lambda: pickled({"state_dict": 5}), "model_unknown"),
    "a list": (lambda: pickled([torch.zeros(3)]), "model_unknown"),
    "keys that are numbers": (lambda: pickled({1: torch.zeros(3)}), "model_unknown"),
    "a function": (lambda: pickle.dumps({"state_dict": print}), "model_pickle_refused"),
    "a pickle of pickle": (lambda: pickle.dumps(OrderedDict(a=1)), "model_pickle_refused"),
    "opcodes": (lambda: b"\x80\x02" + bytes(range(256)) * 4, "model_pickle_refused"),
    "a text of 2^62": (lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.", "model_pickle_refused"),
    "lists in lists": (lambda: b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", "model_damaged"),
    "a table of contents elsewhere": (lambda: end_that_lies(offset=2**31), "model_damaged"),
    "no end": (lambda: b"\x80\x02}", "model_damaged"),
}


def truncations(whole: Path, count: int) -> list[bytes]:
    """Its beginnings: of a few bytes, and at places spread over all of it."""
    data = whole.read_bytes()
    places = [1, 4, 7, 8, 9, 15, 16, 100, *(len(data) * one // count for one in range(1, count)), len(data) - 1]
    return [data[:place] for place in places]
