"""Numbers of a small tensor are read as torch reads them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.families.headers import read_header
from lorasmith.families.small_tensors import MAX_BYTES, read_numbers

NUMBERS = torch.tensor([[0.5, -1.25], [3.0, 1e-3]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_usual_type(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "file.safetensors"
    stored = {"before": torch.ones(3), "numbers": NUMBERS.to(dtype)}
    save_file(stored, path)
    assert read_numbers(path, read_header(path).tensors, "numbers") == stored["numbers"].flatten().double().tolist()


def test_what_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"whole": torch.ones(3, dtype=torch.int64), "large": torch.ones(MAX_BYTES // 4 + 1)}, path)
    tensors = read_header(path).tensors
    assert [read_numbers(path, tensors, name) for name in ("whole", "large", "missing")] == [[], [], []]
