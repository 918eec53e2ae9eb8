"""The shift with which FLUX.2 is sampled: fitted by its authors to the number of tokens and of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MANY = 4300  # tokens of a picture, beyond which the number of steps does not matter


@dataclass(frozen=True, slots=True)
class ShiftBySteps:
    """Between two lines in the number of tokens, one for 10 steps and one for 200. Latents have an element a token."""

    def factor(self, latents_shape: tuple[int, ...], steps: int = 0) -> float:
        tokens = latents_shape[-2] * latents_shape[-1]
        at_200 = 0.00016927 * tokens + 0.45666666
        if tokens > _MANY:
            return math.exp(at_200)
        at_10 = 8.73809524e-05 * tokens + 1.89833333
        return math.exp(at_200 + (at_200 - at_10) * (steps - 200) / 190)
