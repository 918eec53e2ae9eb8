"""The metadata about captions, under the keys and in the spelling of sd-scripts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionFacts:
    """The changes of captions from use to use, and how much of them is read."""

    shuffles: bool = False
    keep_tokens: int = 0
    dropout: float = 0.0
    dropout_every_n_epochs: int = 0
    tag_dropout: float = 0.0
    max_tokens: int | None = None  # None: as many as a text encoder reads at once


def caption_metadata(facts: CaptionFacts) -> dict[str, str]:
    """The `ss_*` keys."""
    return {
        "ss_max_token_length": str(facts.max_tokens),
        "ss_shuffle_caption": str(facts.shuffles),
        "ss_keep_tokens": str(facts.keep_tokens),
        "ss_caption_dropout_rate": str(facts.dropout),
        "ss_caption_dropout_every_n_epochs": str(facts.dropout_every_n_epochs),
        "ss_caption_tag_dropout_rate": str(facts.tag_dropout),
    }
