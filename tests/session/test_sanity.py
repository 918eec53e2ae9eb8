"""Which weights a run's losses vouch for."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lorasmith.adapters import ADAPTERS
from lorasmith.session.sanity import Trust, trusted
from tests.adapters.making import attached_to_all


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


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_older_state_is_kept_once_a_number_is_large_for_its_kind(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A LoHa starts beyond 1, a DoRA with the norms of the base model."""
    layer = nn.Linear(2000, 30)
    nn.init.constant_(layer.weight, 3.0)
    adapter = attached_to_all(nn.Sequential(layer), kind=kind)
    state = SimpleNamespace(adapter=adapter, step=6)
    monkeypatch.setattr(Trust, "newest_state", lambda *_: SimpleNamespace(step=3))
    trust = Trust(step=5)
    assert trust.protected(state, Path()) == frozenset()
    size = adapter.flat.abs().max().clamp(min=1)
    for larger, kept in ((9.0, frozenset()), (11.0, frozenset({3})), (math.nan, frozenset())):
        with torch.no_grad():
            adapter.flat[0] = larger * size
        assert trust.protected(state, Path()) == kept
