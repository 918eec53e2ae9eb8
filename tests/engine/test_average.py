"""The average of the weights, against a loop by hand."""

import pytest
import torch

from lorasmith.engine.average import WeightAverage


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_as_by_hand(decay: float) -> None:
    """The decay rises: 2/11, 3/12, 4/13 … until it is `decay`."""
    average, by_hand = WeightAverage(decay, torch.zeros(2)), 0.0
    for step in range(1, 20):
        average.add(torch.tensor([float(step), -1.0]), step=step, found_inf=None)
        own = min(decay, (1 + step) / (10 + step))
        by_hand = own * by_hand + (1 - own) * step
    assert float(average.weights[0]) == pytest.approx(by_hand, rel=1e-5)


def test_a_skipped_step_changes_no_bit() -> None:
    average = WeightAverage(0.9, torch.full((2,), 0.25))
    average.add(torch.ones(2), step=1, found_inf=torch.ones(()))
    assert average.weights.tolist() == [0.25, 0.25]
    other = WeightAverage(0.9, torch.full((2,), 0.25))
    average.add(torch.ones(2), step=1, found_inf=torch.zeros(()))
    other.add(torch.ones(2), step=1, found_inf=None)
    assert torch.equal(average.weights, other.weights)
