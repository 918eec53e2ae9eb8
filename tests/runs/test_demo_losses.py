"""The picture losses of the demo end well below their control. In a file of its own: another core can measure it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import demo_losses


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_what_is_taught_ends_well_below_its_control_and_nothing_learned_stays_at_it(tmp_path: Path) -> None:
    """One seed; three by the benchmark."""
    found = demo_losses.measure(tmp_path, seeds=1, steps=300)
    for measure in ("semantic", "color"):
        assert found["seed 1"][measure]["ratio"] <= 0.7, found
        assert found["lr 0"][measure]["ratio"] == pytest.approx(1.0, abs=0.01), found
