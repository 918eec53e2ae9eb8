import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorasmith.data.types import Batch, Example, Offset, Size


def batch(*, trains_text: bool) -> Batch:
    text = {"prompt_embeds": torch.arange(5.0).view(5, 1)}
    return Batch(
        latents=torch.arange(5.0).view(5, 1, 1, 1).repeat(1, 4, 2, 3),
        conditioning=None if trains_text else text,
        tokens={"input_ids": torch.arange(5).view(5, 1)} if trains_text else None,
        example_ids=(10, 11, 12, 13, 14),
    )


@pytest.mark.parametrize("trains_text", [True, False])
@pytest.mark.parametrize(("start", "stop"), [(0, 5), (0, 2), (2, 5), (3, 4)])
def test_rows_are_the_same_rows_of_everything(trains_text: bool, start: int, stop: int) -> None:
    cut = batch(trains_text=trains_text).rows(start, stop)
    assert len(cut) == stop - start
    assert cut.example_ids == tuple(range(10 + start, 10 + stop))
    assert cut.latents[:, 0, 0, 0].tolist() == list(range(start, stop))
    if trains_text:
        assert cut.conditioning is None and cut.tokens is not None
        assert cut.tokens["input_ids"].flatten().tolist() == list(range(start, stop))
    else:
        assert cut.tokens is None and cut.conditioning is not None
        assert cut.conditioning["prompt_embeds"].flatten().tolist() == list(range(start, stop))


def test_slices_make_up_the_whole_and_copy_nothing() -> None:
    whole = batch(trains_text=False)
    parts = [whole.rows(0, 2), whole.rows(2, 4), whole.rows(4, 5)]
    assert torch.equal(torch.cat([part.latents for part in parts]), whole.latents)
    assert sum((part.example_ids for part in parts), ()) == whole.example_ids
    assert all(part.latents.untyped_storage().data_ptr() == whole.latents.data_ptr() for part in parts)


def test_a_batch_moves_as_a_whole() -> None:
    whole = batch(trains_text=False)
    assert whole.to(torch.device("cpu")) is whole
    moved = whole.to(torch.device("meta"))
    assert moved.conditioning is not None
    assert {one.device.type for one in (moved.latents, *moved.conditioning.values())} == {"meta"}
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
