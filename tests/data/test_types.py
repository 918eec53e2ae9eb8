import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorasmith.data.types import Batch, Example, Offset, Size


def batch() -> Batch:
    inputs = {
        "latents": torch.arange(5.0).view(5, 1, 1, 1).repeat(1, 4, 2, 3),
        "prompt_embeds": torch.arange(5.0).view(5, 1),
        "input_ids": torch.arange(5).view(5, 1),
    }
    return Batch(inputs, example_ids=(10, 11, 12, 13, 14))


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (0, 2), (2, 5), (3, 4)])
def test_rows_are_the_same_rows_of_everything(start: int, stop: int) -> None:
    cut = batch().rows(start, stop)
    assert len(cut) == stop - start
    assert cut.example_ids == tuple(range(10 + start, 10 + stop))
    assert cut.inputs.keys() == batch().inputs.keys()
    for tensor in cut.inputs.values():
        assert tensor.flatten(1)[:, 0].tolist() == list(range(start, stop))


def test_slices_make_up_the_whole_and_copy_nothing() -> None:
    whole = batch()
    parts = [whole.rows(0, 2), whole.rows(2, 4), whole.rows(4, 5)]
    assert torch.equal(torch.cat([part.latents for part in parts]), whole.latents)
    assert sum((part.example_ids for part in parts), ()) == whole.example_ids
    assert all(part.latents.untyped_storage().data_ptr() == whole.latents.data_ptr() for part in parts)


def test_a_batch_moves_as_a_whole() -> None:
    whole = batch()
    assert whole.to(torch.device("cpu")) is whole
    moved = whole.to(torch.device("meta"))
    assert moved.inputs.keys() == whole.inputs.keys()
    assert {tensor.device.type for tensor in moved.inputs.values()} == {"meta"}
    assert moved.example_ids == whole.example_ids


def test_sizes_are_told_apart_by_name() -> None:
    assert (Size(width=3, height=2).width, Offset(left=1, top=0).top) == (3, 0)
    assert Size(3, 2) == (3, 2)


def test_an_example_cannot_be_changed() -> None:
    size = Size(64, 64)
    example = Example(Path("a.png"), "a", 1, size, size, size, Offset(0, 0), "s", "f")
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.caption = "b"  # type: ignore[misc]


def test_the_types_need_no_torch() -> None:
    program = "import sys, lorasmith.data.types; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], cwd=Path(__file__).parents[2]).strip() == b"False"
