"""The shift of FLUX.2's samplers, against diffusers' copy of the authors' formula."""

import math

import pytest
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from lorasmith.families.flux2_klein.shift import ShiftBySteps


@pytest.mark.parametrize("side", [16, 32, 64, 66])
@pytest.mark.parametrize("steps", [4, 28, 50, 200])
def test_it_follows_from_tokens_and_steps(side: int, steps: int) -> None:
    found = math.log(ShiftBySteps().factor((1, 128, side, side), steps))
    assert found == pytest.approx(compute_empirical_mu(side * side, steps))
