r"""Weights in a caption, as the WebUI writes them: `(x)`, `(x:1.3)`, `[x]`, nested; `\(` is a bracket.

Knows no tokenizer and no family.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import groupby

FACTORS = {"(": 1.1, "[": 1 / 1.1}
"""Factor of the words between brackets, by the opening bracket."""
_OPENING = {")": "(", "]": "["}
_SIGN = re.compile(r"\\[\\()\[\]]|:([+-]?[.\d]+)\)|[^\\()\[\]:]+|.", re.DOTALL)


def weighted_parts(caption: str) -> list[tuple[str, float]]:
    """The caption in parts of equal weight, without the signs of weights. An open bracket ends with the caption; a
    closing bracket without an opening bracket, and a weight that is no number, are text."""
    parts = _Parts()
    for match in _SIGN.finditer(caption):
        sign, number = match[0], match[1]
        if sign in FACTORS:
            parts.opened[sign].append(len(parts.texts))
        elif number and parts.opened["("]:
            parts.close_with(number)
        elif parts.opened.get(_OPENING.get(sign, "")):
            parts.close(_OPENING[sign])
        else:
            parts.add(sign.removeprefix("\\"))
    return parts.finished()


def unweighted(caption: str) -> str:
    """The words of a caption without the signs of weights."""
    return "".join(text for text, _ in weighted_parts(caption))


@dataclass(slots=True)
class _Parts:
    """The parts so far, and the places at which brackets were opened."""

    texts: list[str] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    opened: dict[str, list[int]] = field(default_factory=lambda: {bracket: [] for bracket in FACTORS})

    def add(self, text: str) -> None:
        self.texts.append(text)
        self.weights.append(1.0)

    def close(self, bracket: str, factor: float | None = None) -> None:
        for place in range(self.opened[bracket].pop(), len(self.texts)):
            self.weights[place] *= FACTORS[bracket] if factor is None else factor

    def close_with(self, number: str) -> None:
        try:
            factor = float(number)
        except ValueError:
            self.add(f":{number}")
            self.close("(")
        else:
            self.close("(", factor)

    def finished(self) -> list[tuple[str, float]]:
        for bracket, places in self.opened.items():
            while places:
                self.close(bracket)
        pairs = groupby(zip(self.texts, self.weights, strict=True), key=lambda pair: pair[1])
        return [("".join(text for text, _ in part), weight) for weight, part in pairs]
