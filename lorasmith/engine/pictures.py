"""Pictures that vary from use to use, as inputs of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorasmith.config.sections import AugmentationConfig
from lorasmith.data.augmentation import PLAIN, Variant, variant_at
from lorasmith.data.types import Example, Inputs, Use


@dataclass(frozen=True, slots=True)
class VaryingPictures:
    """The inputs of each example's picture at each use. Satisfies `data.types.VaryingInputs`."""

    examples: Sequence[Example]  # by example id
    settings: Sequence[AugmentationConfig]  # by example id
    seed: int
    beforehand: Mapping[Example, Inputs]  # of the mirrored examples that were encoded before the first step
    live: Callable[[Variant], Inputs]  # encodes any other picture to the same bits as beforehand

    def __call__(self, use: Use) -> Inputs:
        example = self.examples[use.example_id]
        variant = variant_at(example, self.settings[use.example_id], self.seed, use)
        if variant.tint == PLAIN and variant.example == example:
            return {}  # as cached
        if variant.tint == PLAIN and variant.example in self.beforehand:
            return self.beforehand[variant.example]
        return self.live(variant)
