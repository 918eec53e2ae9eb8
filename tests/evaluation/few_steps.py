"""Evaluation with pictures that nobody looks at."""

from dataclasses import replace

import pytest

from lorasmith.families.sd15.family import StableDiffusion15


def sample_in(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Pictures are generated in so many steps."""
    traits = StableDiffusion15.traits
    patch.setattr(StableDiffusion15, "traits", replace(traits, sampling=replace(traits.sampling, steps=steps)))
