"""The files of a base model that consists of several, as a new run records them: found once, named ever after."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from lorasmith.config import RunConfig
from lorasmith.families.weights import BaseWeights


def with_parts(config: RunConfig, weights: BaseWeights) -> tuple[RunConfig, tuple[tuple[str, dict[str, Any]], ...]]:
    """The settings with an absolute path for each file that is used besides the base model's own, and notices of those
    that the user has not named."""
    vae, text = _sources(weights, ["vae"]), _sources(weights, weights.names.tokenizers)
    beside = (
        *(("vae", path) for path in vae if not config.model.vae),
        *(("text-encoder", path) for path in text if not config.model.text_encoder),
    )
    notices = tuple(("part_beside", {"option": option, "path": path}) for option, path in beside)
    return config.with_values({("model", "vae"): "".join(vae), ("model", "text_encoder"): text}), notices


def _sources(weights: BaseWeights, components: Iterable[str]) -> tuple[str, ...]:
    paths = (os.path.abspath(weights.source(name)) for name in components if name in weights.replaced)  # noqa: PTH100 - resolving would follow links
    return tuple(dict.fromkeys(paths))
