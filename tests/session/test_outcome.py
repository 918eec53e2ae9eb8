"""What a start has made is said where it is nothing, or where the file does not hold it."""

from __future__ import annotations

import pytest
import torch

from lorasmith.session.outcome import notice_of_file
from tests.end_to_end.workshop import Values, Workshop

OF_OUTCOME = ("nothing_trained", "export_zeros")


def notices(workshop: Workshop, values: Values) -> dict[str, dict[str, object]]:
    return {one.code: one.fields for one in workshop.new(2, values).warned if one.code in OF_OUTCOME}


def test_a_rate_of_nothing_trains_nothing(workshop: Workshop) -> None:
    assert notices(workshop, {("optimizer", "lr"): 0.0}) == {"nothing_trained": {"steps": 2, "lr": 0.0}}
    again = [one.code for one in workshop.go_on(1).warned]
    assert again == ["nothing_trained"]
    assert [one.code for one in workshop.go_on(1, {("optimizer", "lr"): 1e-2}).warned] == []


@pytest.mark.parametrize(("precision", "zero"), [("fp16", True), ("fp32", False)])
def test_numbers_too_small_for_the_file(workshop: Workshop, precision: str, zero: bool) -> None:
    found = notices(workshop, {("optimizer", "lr"): 1e-9, ("export", "save_precision"): precision})
    assert set(found) == ({"export_zeros"} if zero else set())
    if zero:
        fields = found["export_zeros"]
        assert fields["precision"] == "float16"
        assert fields["count"] == workshop_matrices(workshop) // 2  # the up matrices, which begin at 0


def workshop_matrices(workshop: Workshop) -> int:
    return len(workshop.adapter())


def test_a_matrix_that_was_zero_before_is_not_counted() -> None:
    tensors = {"a": torch.zeros(2, 2), "b": torch.full((2, 2), 1e-9), "c": torch.ones(2, 2), "d": torch.tensor(1e-9)}
    assert notice_of_file(tensors, torch.float16) == [("export_zeros", {"count": 1, "all": 4, "precision": "float16"})]
    assert notice_of_file(tensors, torch.bfloat16) == []
