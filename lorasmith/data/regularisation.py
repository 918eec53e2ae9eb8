"""Deals regularisation pictures out to the pictures that are trained on. Knows no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lorasmith.data.types import Example


def dealt(own: Sequence[int], wanted: int) -> list[int]:
    """The repeats of regularisation pictures, dealt out until their sum reaches `wanted`: first each its `own` repeats,
    then once more in each round. The last to be dealt may exceed what is wanted; the rest get 0."""
    found = [0] * len(own)
    left = wanted
    for number, repeats in enumerate(own):
        if left <= 0:
            return found
        found[number] = repeats
        left -= repeats
    rounds, more = divmod(max(left, 0), max(len(own), 1))
    return [repeats + rounds + (number < more) for number, repeats in enumerate(found)]


def with_dealt_repeats(examples: Sequence[Example], groups: Sequence[int]) -> tuple[Example, ...]:
    """The examples with the repeats that the regularisation pictures of each group get; those that get none are left
    out. `groups` has the group of each subset."""
    repeats = {number: example.repeats for number, example in enumerate(examples)}
    for group in set(groups):
        members = [number for number, example in enumerate(examples) if groups[example.subset] == group]
        regularisation = [number for number in members if examples[number].is_regularisation]
        wanted = sum(repeats[number] for number in members if not examples[number].is_regularisation)
        repeats |= zip(regularisation, dealt([repeats[number] for number in regularisation], wanted), strict=True)
    return tuple(
        example if repeats[number] == example.repeats else replace(example, repeats=repeats[number])
        for number, example in enumerate(examples)
        if repeats[number]
    )


def unused_regularisation(examples: Sequence[Example], trained: Sequence[Example]) -> list[Example]:
    """The regularisation pictures that are not among the trained examples."""
    used = {(example.image, example.subset) for example in trained}
    return [
        example for example in examples if example.is_regularisation and (example.image, example.subset) not in used
    ]
