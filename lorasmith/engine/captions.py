"""Captions that vary from use to use, as inputs of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorasmith.data.caption_variants import CaptionRules, caption_at
from lorasmith.data.types import Inputs, Use


@dataclass(frozen=True, slots=True)
class VaryingCaptions:
    """The inputs of each example's caption at each use. Satisfies `data.types.VaryingInputs`."""

    texts: Sequence[str]  # by example id
    rules: Sequence[CaptionRules]  # by example id
    seed: int
    known: Mapping[str, Inputs]  # of the captions that were encoded beforehand
    live: Callable[[str], Inputs]  # encodes any other caption to the same bits as beforehand

    def __call__(self, use: Use) -> Inputs:
        caption = caption_at(self.texts[use.example_id], self.rules[use.example_id], self.seed, use)
        return self.known[caption] if caption in self.known else self.live(caption)
