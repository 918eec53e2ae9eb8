"""Signs that a model was distilled to make pictures in a few steps: names and schedulers; weights show nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from lorasmith.families.weights import ModelFiles

_METHODS = {
    "turbo": "Turbo",
    "lightning": "Lightning",
    "hypersd": "Hyper-SD",
    "hypersdxl": "Hyper-SD",
    "lcm": "LCM",
    "dmd": "DMD",
}
_SCHEDULERS = {"LCMScheduler": "LCM", "TCDScheduler": "Hyper-SD"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def distilled_by(files: ModelFiles, scheduler: Mapping[str, Any]) -> str:
    """The method by which the model was distilled, by its scheduler, its title or its name; "" without a sign."""
    if method := _SCHEDULERS.get(str(scheduler.get("_class_name"))):
        return method
    hub = [part for part in files.path.parts if part.startswith("models--")]  # a snapshot's own name is a number
    titles = (str(files.index.get("_name_or_path", "")), files.metadata.get("modelspec.title", ""))
    for text in (*titles, *hub, files.path.stem):
        words = [word.lower() for word in _WORD.findall(text)]
        words += [first + second for first, second in pairwise(words) if first == "hyper"]
        for word in words:
            if word in _METHODS:
                return _METHODS[word]
    return ""
