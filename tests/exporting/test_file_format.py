"""Our bytes are those of the safetensors library, but the same every time."""

import json
import struct

import pytest
import torch
from safetensors.torch import load, save

from lorasmith.exporting.file_format import data_bytes, header_bytes, split_file

TENSORS = {
    "b": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,  # not contiguous
    "a": torch.ones(3, dtype=torch.float16),
    "ä": torch.full((1, 2, 1), 2.0, dtype=torch.bfloat16),
    "A": torch.tensor(0.1),
}
METADATA = {"z": 'ü\t"\n\x07\x7f', "a": "{}"}


def test_read_by_the_library_as_written() -> None:
    read = load(header_bytes(TENSORS, METADATA) + data_bytes(TENSORS))
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], TENSORS[name]) and read[name].dtype == TENSORS[name].dtype for name in read)


@pytest.mark.parametrize("metadata", [METADATA, {}, {"one": "x"}])
def test_same_length_and_data_as_the_library_writes(metadata: dict[str, str]) -> None:
    theirs = save({name: tensor.contiguous() for name, tensor in TENSORS.items()}, metadata or None)
    header = header_bytes(TENSORS, metadata)
    assert len(header) == 8 + struct.unpack("<Q", theirs[:8])[0]
    assert data_bytes(TENSORS) == theirs[len(header) :]
    assert json.loads(header[8:]) == json.loads(theirs[8 : len(header)])


def test_header_starts_as_readers_expect_and_is_sorted() -> None:
    header = header_bytes(TENSORS, METADATA)
    assert header[8:10] == b'{"'
    assert header == header_bytes(dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))


def test_split() -> None:
    content = header_bytes(TENSORS, METADATA) + data_bytes(TENSORS)
    metadata, header, data = split_file(content)
    assert metadata == METADATA
    assert header.startswith(b'{"__metadata__"')
    assert bytes(data) == data_bytes(TENSORS)


@pytest.mark.parametrize("content", [b"", b"1234567", struct.pack("<Q", 100) + b"{}", struct.pack("<Q", 2) + b"{]"])
def test_broken_headers(content: bytes) -> None:
    with pytest.raises(ValueError):
        split_file(content)
