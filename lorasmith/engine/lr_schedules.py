"""The factor on the learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math


def lr_factor_at(step: int, *, shape: str, warmup_steps: int, horizon_steps: int) -> float:
    """The factor for the step being made (from 1), in [0, 1].

    Rises linearly to 1 over the warm-up, reached with its last step; then the shape runs from 1 at the first step after
    it towards 0 at the end of the horizon. Steps beyond the horizon get what the shape ends with.
    `cosine_with_restarts:C` is C cosines in a row (Loshchilov & Hutter 2017, without growth of the cycles).
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
