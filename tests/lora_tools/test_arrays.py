"""Numbers of every type, as torch reads and rounds them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lorasmith.families.headers import read_header
from lorasmith.lora_tools.arrays import header_bytes, read_array, to_bytes

TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "U8": torch.uint8,
}  # fmt: skip
SPECIAL = [0.0, -0.0, 1.0, -1.5, 65504.0, 65520.0, 1e-8, 6e-8, 3e38, float("inf"), float("-inf"), float("nan"), 1e-42]


@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_is_read_as_torch_reads_it(tmp_path: Path, dtype: str) -> None:
    if dtype.startswith("F8"):
        tensor = torch.arange(256, dtype=torch.uint8).view(TYPES[dtype]).reshape(16, 16)
    else:
        tensor = (torch.randn(5, 7, generator=torch.Generator().manual_seed(1)) * 100).to(TYPES[dtype])
    save_file({"x": tensor}, tmp_path / "x.safetensors")
    info = read_header(tmp_path / "x.safetensors").tensors["x"]
    with (tmp_path / "x.safetensors").open("rb") as file:
        found = read_array(file, info)
    assert info.dtype == dtype and np.array_equal(found, tensor.float().numpy(), equal_nan=True)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_numbers_are_rounded_as_torch_rounds_them(dtype: str) -> None:
    drawn = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    halves = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11])  # ties of bf16 and fp16
    tensor = torch.cat([drawn, halves, torch.tensor(SPECIAL)])
    expected = tensor.to(TYPES[dtype])
    found = torch.frombuffer(bytearray(to_bytes(tensor.numpy(), dtype)), dtype=TYPES[dtype])
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(0.5), expected.nan_to_num(0.5))


def test_a_header_is_read_back(tmp_path: Path) -> None:
    entries = {"a": ("F32", (2, 3)), "b": ("F16", ()), "c": ("BF16", (0,))}
    (tmp_path / "x").write_bytes(header_bytes(entries, {"k": "v"}) + bytes(24 + 2))
    header = read_header(tmp_path / "x")
    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == entries
    assert header.metadata == {"k": "v"}
