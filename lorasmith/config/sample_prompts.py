"""A sample prompt with flags after its text, as sd-scripts' prompt files have them: `a cat --n blurry --w 512 --d 42`.

A flag counts only after the text: a prompt that begins with "n " or "d 20" is a text like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SIDE_STEP = 8  # pixels; sides are rounded down to multiples of it
SIDES = (64, 4096)
MAX_SAMPLING_STEPS = 1000
# Samplers of other programs that give the same picture as the sampler here (DDIM): Euler's method without noise.
SAME_SAMPLERS = frozenset({"ddim", "euler", "k_euler"})
WITHOUT_EFFECT = frozenset({"ss", "cn", "ctr", "rcfg", "fs", "img"})
"""Flags for other models, and for samplers that are not built in."""

_FLAG = re.compile(r"(?:^|\s+)--(?=\S)")


@dataclass(frozen=True, slots=True)
class SamplePrompt:
    """A caption to draw a sample from, and how. None: as samples are drawn otherwise."""

    text: str
    negative: str = ""
    width: int | None = None  # pixels
    height: int | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    embedded: float | None = None  # the guidance of a denoiser that takes it as an input; None: as `guidance`
    ignored: tuple[str, ...] = ()  # flags without an effect here, as typed


def sample_prompt(line: str) -> SamplePrompt:
    """The prompt of a line; of a flag that is given twice the last counts.

    Raises:
        ValueError: an unknown flag, or a value that it does not take.
    """
    text, *flags = _FLAG.split(line)
    found: dict[str, Any] = {}
    ignored = []
    for flag in flags:
        name, _, value = flag.strip().partition(" ")
        name, value = name.lower(), value.strip()
        if name in _READERS:
            field, read = _READERS[name]
            found[field] = read(value)
        elif name in WITHOUT_EFFECT:
            if not (name == "ss" and value.lower() in SAME_SAMPLERS):
                ignored.append(f"--{name} {value}".strip())
        else:
            raise ValueError(f"--{name} is no flag of a prompt")
    return SamplePrompt(text.strip(), **found, ignored=tuple(ignored))


def _side(value: str) -> int:
    side = int(value) // SIDE_STEP * SIDE_STEP
    if not SIDES[0] <= side <= SIDES[1]:
        raise ValueError(f"must be a size from {SIDES[0]} to {SIDES[1]}")
    return side


def _seed(value: str) -> int | None:
    seed = int(value)
    if seed >= 2**32:
        raise ValueError("must be a seed below 2**32")
    return None if seed < 0 else seed  # -1 means any seed


def _steps(value: str) -> int:
    return max(1, min(MAX_SAMPLING_STEPS, int(value)))


def _guidance(value: str) -> float:
    guidance = float(value)
    if not 0 <= guidance <= 100:
        raise ValueError("must be from 0 to 100")
    return guidance


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "n": ("negative", str),
    "w": ("width", _side),
    "h": ("height", _side),
    "d": ("seed", _seed),
    "s": ("steps", _steps),
    "l": ("guidance", _guidance),
    "g": ("embedded", _guidance),
}
