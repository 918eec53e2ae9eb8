"""The caption of an example at a use: a function of its text, the settings, the seed and the use.

The order of operations is sd-scripts': a line of the text, prefix and suffix, wildcards, tags (which come in over time,
change places and are left out), the secondary separator. Knows nothing of pictures, tokens and encoders.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from random import Random

from lorasmith.config.sections import CaptionsConfig
from lorasmith.data.captions import LINE_END, cleaned, with_trigger
from lorasmith.data.types import Use
from lorasmith.seeding import fold

MAX_CACHED = 16  # captions of an example that are encoded beforehand
_WILDCARD = re.compile(r"\{([^}]+)\}")
_ESCAPED = {"{{": "\x01", "}}": "\x02"}  # texts hold no control characters

Pick = Callable[[Sequence[str]], str]
Rearrange = Callable[[list[str]], list[str]]


@dataclass(frozen=True, slots=True)
class CaptionRules:
    """The settings that captions are made by."""

    settings: CaptionsConfig
    trigger_word: str = ""
    warmup_steps: int = 0  # until all tags are seen

    @property
    def fixed_tags(self) -> int:
        """The number of tags that stay at the start: as asked for, and at least those of the trigger word."""
        own = self.trigger_word.count(self.settings.separator) + 1 if self.trigger_word.strip() else 0
        return max(self.settings.keep_tokens, own)

    @property
    def moves_tags(self) -> bool:
        """Whether tags come, go or change places."""
        return self.settings.shuffle or self.settings.tag_dropout > 0 or self.warmup_steps > 0


def settled_caption(text: str, rules: CaptionRules) -> str:
    """The caption without anything random: the first line, the first text of each wildcard, all tags in order."""
    return _composed(text, rules, line=_first, wildcard=_first, rearrange=list)


def caption_at(text: str, rules: CaptionRules, seed: int, use: Use) -> str:
    """The caption at a use. Each operation has its own random numbers, so no option changes those of another."""
    settings = rules.settings

    def numbers(name: str) -> Callable[[], float]:
        return Random(fold(seed, f"caption {name}", use.step, use.micro, use.row)).random

    def rearranged(tags: list[str]) -> list[str]:
        tags = tags[: _tags_seen(len(tags), rules, completed=use.step - 1)]
        if settings.shuffle:
            number = numbers("shuffle")
            places = [(number(), place) for place in range(len(tags))]
            tags = [tags[place] for _, place in sorted(places)]
        number = numbers("tag dropout")
        return [tag for tag in tags if number() >= settings.tag_dropout] if settings.tag_dropout else tags

    if settings.dropout_every_n_epochs and use.epoch % settings.dropout_every_n_epochs == 0:
        return ""
    if settings.dropout and numbers("dropout")() < settings.dropout:
        return ""
    line, wildcard = _picking(numbers("line")), _picking(numbers("wildcard"))
    return _composed(text, rules, line=line, wildcard=wildcard, rearrange=rearranged)


def possible_captions(text: str, rules: CaptionRules) -> tuple[str, ...] | None:
    """Every caption that a use may have, in a fixed order; None where they may be more than MAX_CACHED."""
    settings = rules.settings
    found = dict.fromkeys([""] if settings.dropout or settings.dropout_every_n_epochs else [])
    for line in _lines(text, rules):
        pieces = [tuple(dict.fromkeys(piece)) for piece in _pieces(_framed(line, rules), rules)]
        if prod(map(len, pieces)) > MAX_CACHED:
            return None
        for parts in product(*pieces):
            caption = "".join(parts)
            if _may_rearrange(len(_parted(caption, rules)[1]), rules):
                return None
            found[_joined(caption, rules, list)] = None
        if len(found) > MAX_CACHED:
            return None
    return tuple(found)


def _may_rearrange(moving: int, rules: CaptionRules) -> bool:
    """Whether that number of tags, which may move, can differ between two uses."""
    settings = rules.settings
    is_warming = rules.warmup_steps > 0 and moving > settings.warmup_tags
    return is_warming or (settings.shuffle and moving > 1) or (settings.tag_dropout > 0 and moving > 0)


def _tags_seen(count: int, rules: CaptionRules, *, completed: int) -> int:
    """The number of tags that have come in after that many completed steps."""
    least, steps = rules.settings.warmup_tags, rules.warmup_steps
    return count if completed >= steps else completed * (count - least) // steps + least


# -- a caption in its parts ------------------------------------------------------------------------


def _composed(text: str, rules: CaptionRules, *, line: Pick, wildcard: Pick, rearrange: Rearrange) -> str:
    pieces = _pieces(_framed(line(_lines(text, rules)), rules), rules)
    caption = "".join(piece[0] if len(piece) == 1 else wildcard(piece) for piece in pieces)
    return _joined(caption, rules, rearrange)


def _lines(text: str, rules: CaptionRules) -> list[str]:
    lines = text.split(LINE_END)
    return lines if rules.settings.has_wildcards else lines[:1]


def _framed(line: str, rules: CaptionRules) -> str:
    """The line between prefix and suffix, after the trigger word."""
    parts = (cleaned(rules.settings.prefix), line, cleaned(rules.settings.suffix))
    return with_trigger(" ".join(part for part in parts if part), rules.trigger_word)


def _pieces(caption: str, rules: CaptionRules) -> list[Sequence[str]]:
    """The caption in pieces, each with its alternatives: several where it is a wildcard. Wildcards cannot contain each
    other, and double braces are braces."""
    if not rules.settings.has_wildcards:
        return [(caption,)]
    for braces, sign in _ESCAPED.items():
        caption = caption.replace(braces, sign)
    alternatives = [part.split("|") if is_odd else [part] for part, is_odd in _alternately(_WILDCARD.split(caption))]
    return [[_unescaped(text) for text in piece] for piece in alternatives]


def _alternately(parts: list[str]) -> list[tuple[str, bool]]:
    return [(part, number % 2 == 1) for number, part in enumerate(parts)]


def _unescaped(text: str) -> str:
    for braces, sign in _ESCAPED.items():
        text = text.replace(sign, braces[0])
    return text


def _parted(caption: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """The tags that stay at the start, those that may move, and those that stay at the end."""
    settings, mark = rules.settings, rules.settings.keep_tokens_separator
    if mark and mark in caption:
        parts = [part.split(settings.separator) for part in caption.split(mark, 2)]
        first, moving, *last = [[tag.strip() for tag in part if tag.strip()] for part in parts]
        return first, moving, [tag for part in last for tag in part]
    tags = [tag.strip() for tag in caption.split(settings.separator)]
    return tags[: rules.fixed_tags], tags[rules.fixed_tags :], []


def _joined(caption: str, rules: CaptionRules, rearrange: Rearrange) -> str:
    """The caption with its tags rearranged; as it was written where no tag can move and no mark has to go."""
    settings = rules.settings
    mark = settings.keep_tokens_separator
    if rules.moves_tags or (mark and mark in caption):
        first, moving, last = _parted(caption, rules)
        caption = ", ".join([*first, *rearrange(moving), *last])
    return (
        caption.replace(settings.secondary_separator, settings.separator) if settings.secondary_separator else caption
    )


def _first(texts: Sequence[str]) -> str:
    return texts[0]


def _picking(number: Callable[[], float]) -> Pick:
    return lambda texts: texts[int(number() * len(texts))]
