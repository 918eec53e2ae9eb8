"""Nothing learned, nothing gained: with a learning rate of 0 the picture losses of the demo stay at their control."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
def test_nothing_learned_stays_at_its_control(tmp_path: Path) -> None:
    from benchmarks import demo_losses

    found = demo_losses.measure(tmp_path, seeds=0, steps=0)
    for measure in ("semantic", "color"):
        assert found["lr 0"][measure]["ratio"] == pytest.approx(1.0, abs=0.01), found
