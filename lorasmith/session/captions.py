"""The captions of a run that vary from use to use: which are encoded beforehand, and how the others become inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorasmith.config import RunConfig
from lorasmith.data.caption_variants import CaptionRules, possible_captions
from lorasmith.data.types import Example, Inputs, VaryingInputs
from lorasmith.engine.captions import VaryingCaptions
from lorasmith.exporting.caption_metadata import CaptionFacts
from lorasmith.inputs import text_settings

MAX_BEFOREHAND = 1024
"""Captions that are encoded beforehand besides two for each example: they stay in memory, 0.3 MB each for SDXL."""
_WITH_DROPOUT = 2  # its own caption and the empty caption


@dataclass(frozen=True, slots=True)
class CaptionPlan:
    """The captions that the trained examples may have."""

    texts: tuple[str, ...]  # by example id
    rules: tuple[CaptionRules, ...]  # by example id
    beforehand: tuple[str, ...]  # captions that are encoded before the first step; none where no caption varies
    is_live: bool  # whether the possible captions of an example are too many for that
    varies: bool  # whether any example may have another caption than its own

    def inputs(
        self, seed: int, encoded: Mapping[str, Inputs], live_captions: Callable[[], Callable[[str], Inputs]]
    ) -> tuple[VaryingInputs, ...]:
        """The inputs of captions that vary. `encoded` holds those of `beforehand`; `live_captions` loads what encodes
        the others, and is called only where that is needed."""
        if not self.varies:
            return ()
        known = {caption: encoded[caption] for caption in self.beforehand}
        live = live_captions() if self.is_live else known.__getitem__
        return (VaryingCaptions(self.texts, self.rules, seed, known, live),)


def caption_plan(config: RunConfig, trained: Sequence[Example], *, stop_at: int) -> CaptionPlan:
    """A function of settings and captions; of the target only where a setting is a share of it."""
    by_subset = [
        CaptionRules(own.captions, own.dataset.trigger_word, own.captions.resolved_warmup_steps(stop_at))
        for own in (subset.config for subset in config.subsets())
    ]
    possible = {
        (example.text, example.subset): possible_captions(example.text, by_subset[example.subset])
        for example in trained
    }
    varies = any(possible[example.text, example.subset] != (example.caption,) for example in trained)
    if len(_all(possible)) > MAX_BEFOREHAND + 2 * len(possible):
        possible = {
            key: captions if captions and len(captions) <= _WITH_DROPOUT else None for key, captions in possible.items()
        }
    return CaptionPlan(
        texts=tuple(example.text for example in trained),
        rules=tuple(by_subset[example.subset] for example in trained),
        beforehand=_all(possible) if varies else (),
        is_live=None in possible.values(),
        varies=varies,
    )


def _all(possible: Mapping[Any, tuple[str, ...] | None]) -> tuple[str, ...]:
    """Every caption once, in order."""
    return tuple(dict.fromkeys(caption for captions in possible.values() for caption in captions or ()))


def caption_facts(config: RunConfig) -> CaptionFacts:
    """The facts about captions for the metadata of an export."""
    own = config.captions
    return CaptionFacts(
        shuffles=own.shuffle,
        keep_tokens=own.keep_tokens,
        dropout=own.dropout,
        dropout_every_n_epochs=own.dropout_every_n_epochs,
        tag_dropout=own.tag_dropout,
        max_tokens=text_settings(config.model).max_tokens,
    )
