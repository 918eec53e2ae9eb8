"""Facts of its base model that a new run settles: the form, where files do not tell it, and the files of a model that
consists of several, found once and named ever after."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig
from lorasmith.errors import ModelError
from lorasmith.families.headers import file_kind, read_header
from lorasmith.families.locate import expanded
from lorasmith.families.weights import BaseWeights

FP8 = frozenset({"F8_E4M3", "F8_E5M2"})  # data types in headers


def check_form(weights: BaseWeights) -> None:
    """Returns where it is known what form of its family the base model is.

    Raises:
        ModelError: `model_form_unnamed`.
    """
    if weights.assumed:
        raise ModelError("model_form_unnamed", path=str(weights.path), form=weights.assumed)


def with_parts(
    config: RunConfig, weights: BaseWeights, here: Path
) -> tuple[RunConfig, tuple[tuple[str, dict[str, Any]], ...]]:
    """The settings with an absolute path for each file that is used besides the base model's own, and notices of those
    that the user has not named, and of files with weights in 8 bits."""
    named = {_absolute(here / expanded(path)) for path in (config.model.vae, *config.model.text_encoder) if path}
    vae, text = _sources(weights, ["vae"]), _sources(weights, weights.names.tokenizers)
    beside = [("vae", path) for path in vae] + [("text-encoder", path) for path in text]
    notices = tuple(("part_beside", {"option": option, "path": path}) for option, path in beside if path not in named)
    rounded = tuple(("weights_in_fp8", {"path": str(path)}) for path in _files(weights) if _is_fp8(path))
    return config.with_values({("model", "vae"): "".join(vae), ("model", "text_encoder"): text}), notices + rounded


def _files(weights: BaseWeights) -> Iterator[Path]:
    if weights.layout == "single_file":
        yield weights.path
    for part in weights.replaced.values():
        yield from part.paths


def _is_fp8(path: Path) -> bool:
    """Whether a file has matrices in 8 bits, by its header; False for pickles."""
    if file_kind(path) == "pickle":
        return False
    return any(info.dtype in FP8 and len(info.shape) > 1 for info in read_header(path).tensors.values())


def _sources(weights: BaseWeights, components: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_absolute(weights.source(name)) for name in components if name in weights.replaced))


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolving would follow the link
