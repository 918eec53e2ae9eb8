"""The learning-rate schedules as a pure function of the step, so that there is nothing to save or restore."""

from __future__ import annotations

import math


def lr_factor_at(step: int, *, shape: str, warmup_steps: int, horizon_steps: int) -> float:
    """The factor on the base learning rate for the step being made (from 1), in [0, 1].

    Rises linearly during the warm-up and reaches 1 with its last step; then the shape falls from 1 at the next step
    towards 0 at the end of the horizon. Steps beyond the horizon get the shape's last value.
    `cosine_with_restarts:C` is C cosines in a row (Loshchilov & Hutter 2017, with cycles of equal length).
    """
    if step <= warmup_steps:
        return step / warmup_steps
    length = horizon_steps - warmup_steps
    progress = 1.0 if length <= 0 else min(1.0, (step - warmup_steps - 1) / length)
    name, _, cycles = shape.partition(":")
    if name == "constant":
        return 1.0
    if name == "linear":
        return 1.0 - progress
    if name == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    assert name == "cosine_with_restarts", name
    if progress >= 1.0:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * ((progress * int(cycles or "1")) % 1.0)))
