"""The header of a safetensors file: good ones are read, and every way to be broken has its error."""

import json
import os
import struct
import sys
import zipfile
from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families import headers
from lorasmith.families.headers import TensorInfo, check_tokenizer, file_kind, read_header, read_json


def written(folder: Path, header: object, data: bytes, *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(start: int, end: int, *, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(end - start) // 4] if shape is None else shape, "data_offsets": [start, end]}


def test_places_are_offsets_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"__metadata__": {"a": "b"}, "y": entry(8, 16, shape=[1, 2]), "x": entry(0, 8)}, bytes(16))
    header = read_header(path)
    begin = path.stat().st_size - 16
    assert header.metadata == {"a": "b"}
    assert header.tensors == {
        "x": TensorInfo("F32", (2,), begin, begin + 8),
        "y": TensorInfo("F32", (1, 2), begin + 8, begin + 16),
    }


def test_a_file_of_the_library_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64), "c": torch.zeros(0)}
    save_file(tensors | {"h": torch.ones(3).half()}, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    info = header.tensors["a"]
    raw = (tmp_path / "x.safetensors").read_bytes()[info.start : info.end]
    assert struct.unpack("<6f", raw) == (0, 1, 2, 3, 4, 5)
    assert {name: (one.dtype, one.shape) for name, one in header.tensors.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("I64", ()),
        "c": ("F32", (0,)),
        "h": ("F16", (3,)),
    }


@pytest.mark.parametrize(
    ("header", "data", "code"),
    [
        ({"x": entry(0, 8)}, bytes(7), "model_truncated"),
        ({"x": entry(0, 8)}, bytes(9), "model_damaged"),
        ({"x": entry(0, 8), "y": entry(4, 12)}, bytes(12), "model_damaged"),  # overlap
        ({"x": entry(0, 8), "y": entry(12, 16)}, bytes(16), "model_damaged"),  # hole
        ({"x": entry(4, 8)}, bytes(8), "model_damaged"),
        ({"x": entry(0, 8, shape=[3])}, bytes(8), "model_damaged"),
        ({"x": entry(0, 8, shape=[-1, -2])}, bytes(8), "model_damaged"),
        ({"x": entry(0, 8, dtype="F33")}, bytes(8), "model_damaged"),
        ({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, bytes(8), "model_damaged"),
        ({"x": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, bytes(8), "model_damaged"),
        ({"x": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, bytes(8), "model_damaged"),
        ({"x": {"dtype": "F32"}}, b"", "model_damaged"),
        ({"x": 3}, b"", "model_damaged"),
        ({"__metadata__": {"a": 1}}, b"", "model_damaged"),
        (b'{"x": ', b"", "model_damaged"),
        (b"{\xff}", b"", "model_damaged"),
        (b"[1]", b"", "model_unknown"),
    ],
)
def test_broken_headers(tmp_path: Path, header: object, data: bytes, code: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_header(written(tmp_path, header, data))
    assert caught.value.code == code
    json.dumps(caught.value.fields)


@pytest.mark.parametrize("length", [0x0280, 0x0380, 0x0480, 0x0580, 0x10280])
def test_a_length_that_begins_like_a_pickle(tmp_path: Path, length: int) -> None:
    text = json.dumps({"x": entry(0, 8)}).encode().ljust(length)
    assert read_header(written(tmp_path, text, bytes(8))).tensors.keys() == {"x"}


@pytest.mark.parametrize(("length", "code"), [(1 << 60, "model_damaged"), (10_000, "model_truncated")])
def test_a_header_longer_than_the_file(tmp_path: Path, length: int, code: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_header(written(tmp_path, {"x": entry(0, 8)}, bytes(8), length=length))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "model_truncated"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "model_is_picture"),
        (b"hello hello \xe8\xb2\x93"[:-1], "model_is_text"),
        (b'{"error":"Access to model x is restricted"}', "model_is_text"),
        (b"version https://git-lfs.github.com/spec/v1\n", "model_is_lfs_pointer"),
        (b"\n<!DOCTYPE html><html>", "model_is_web_page"),
        (b"GGUF\x03\0\0\0" + bytes(100), "model_is_gguf"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "model_is_archive"),
        (bytes(range(9, 200)), "model_unknown"),
        (b"PK\x03\x04" + bytes(100), "model_truncated"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        file_kind(tmp_path / "model.safetensors")
    assert caught.value.code == code


def test_a_zip_archive_is_a_checkpoint_only_with_a_pickle_inside(tmp_path: Path) -> None:
    for name, inside in (("pictures.zip", "a.png"), ("model.ckpt", "archive/data.pkl")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inside, b"x")
    assert file_kind(tmp_path / "model.ckpt") == "pickle"
    with pytest.raises(ModelError, match="model_is_archive"):
        file_kind(tmp_path / "pictures.zip")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_unreadable"):
        read_header(tmp_path / "gone.safetensors")


# -- small files -----------------------------------------------------------------------------------


def test_a_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "é"}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": "é"}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_anything_else_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ModelError, match="model_damaged"):
        read_json(tmp_path / "a.json")


def test_a_giant_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_JSON_BYTES", 10)
    monkeypatch.setattr(headers, "MAX_TOKENIZER_BYTES", 10)
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    check_tokenizer(tmp_path)
    (tmp_path / "a.json").write_text('{"a": 100000}')
    for read, path in ((read_json, tmp_path / "a.json"), (check_tokenizer, tmp_path)):
        with pytest.raises(ModelError, match="model_damaged"):
            read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    for read, path in ((read_json, tmp_path / "a.json"), (check_tokenizer, tmp_path)):
        with pytest.raises(ModelError, match="model_irregular"):
            read(path)


def test_a_tokenizer_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").touch()
    with pytest.raises(ModelError, match="model_damaged"):
        check_tokenizer(tmp_path / "tokenizer")
