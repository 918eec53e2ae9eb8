"""Densities against the formulas of diffusers' reference, which draws where these compute quantiles."""

import math

import pytest
import torch
from torch import Tensor

from lorasmith.diffusion.densities import CosMap, Density, LogitNormal, Mode, Uniform

ALL = (Uniform(), LogitNormal(), LogitNormal(-0.5, 1.7), Mode(1.29), Mode(-0.9), CosMap())
QUANTILES = (torch.arange(2000) + 0.5) / 2000


@pytest.mark.parametrize("density", ALL)
def test_the_inverse_is_that_of_the_quantile_function(density: Density) -> None:
    shares = density.shares(QUANTILES)
    assert (shares.diff() > 0).all() and shares.min() > 0 and shares.max() < 1
    found = [density.below(share) for share in shares[::97].tolist()]
    assert torch.allclose(torch.tensor(found), QUANTILES[::97], atol=2e-5)
    assert (density.below(0.0), density.below(1.0)) == pytest.approx((0, 1), abs=1e-9)


def test_of_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers that diffusers makes of the same draws; its mode counts quantiles from the other end."""
    from diffusers.training_utils import compute_density_for_timestep_sampling as theirs

    normal = torch.special.ndtri(QUANTILES)
    monkeypatch.setattr(torch, "normal", lambda mean, std, **_: mean + std * normal)
    assert torch.allclose(theirs("logit_normal", 2000, -0.5, 1.7), LogitNormal(-0.5, 1.7).shares(QUANTILES))
    monkeypatch.setattr(torch, "rand", lambda **_: QUANTILES)
    assert torch.allclose(theirs("mode", 2000, mode_scale=1.29).flip(0), Mode(1.29).shares(QUANTILES), atol=1e-6)
    assert torch.equal(theirs("none", 2000), Uniform().shares(QUANTILES))


def test_cosmap_has_the_density_of_the_paper() -> None:
    def density(share: Tensor) -> Tensor:
        return 2 / (math.pi * (1 - 2 * share + 2 * share.square()))

    edges = torch.linspace(0.0, 1.0, 11)
    counts = torch.histogram(CosMap().shares((torch.arange(100_000) + 0.5) / 100_000), edges).hist / 10_000
    middles = (edges[:-1] + edges[1:]) / 2
    assert torch.allclose(counts, density(middles), rtol=0.01)


def test_quantiles_at_the_ends_are_finite() -> None:
    ends = torch.tensor([2**-24, 1 - 2**-24])  # the ends of what `Draw.uniform` draws
    for density in ALL:
        shares = density.shares(ends)
        assert torch.isfinite(shares).all() and shares[0] >= 0 and shares[1] <= 1
