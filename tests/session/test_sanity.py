"""Which weights a run's losses vouch for."""

import math

import pytest

from lorasmith.session.sanity import trusted


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([], 0),
        ([0.1], 0),
        ([0.1, 0.12, 0.09], 2),
        ([0.1, 0.2, 1e3], 1),  # the weights after step 2 gave it
        ([0.1, 0.2, 1e3, 1e9, 1e20], 1),
        ([0.1, 0.2, 99.0], 2),  # bad luck with a batch is no blow-up
        ([50.0, 60.0, 4000.0], 2),  # a base model that knows nothing
        ([50.0, 60.0, 6000.0], 1),
        ([0.1, 1e3, 0.3, 0.2], 3),  # it has recovered
        ([0.1, math.inf], 0),
    ],
)
def test_the_newest_step_whose_weights_gave_a_sane_loss(losses: list[float], step: int) -> None:
    assert trusted(enumerate(losses, start=1)).step == step
