"""Facts of its base model that a start settles: the form, where files do not tell it, the settings that its text
encoders have, and the files of a model that consists of several, found once and named ever after."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lorasmith.config import ModelConfig, RunConfig
from lorasmith.errors import ModelError
from lorasmith.families.folders import component_files
from lorasmith.families.headers import file_kind, read_header
from lorasmith.families.locate import expanded
from lorasmith.families.weights import BaseWeights, check_clip_skip, check_plain_text
from lorasmith.inputs import text_settings
from lorasmith.lora_files.names import FAMILY_NAMES

FP8 = frozenset({"F8_E4M3", "F8_E5M2"})  # data types in headers


def check_form(weights: BaseWeights) -> None:
    """Returns where it is known what form of its family the base model is.

    Raises:
        ModelError: `model_form_unnamed`.
    """
    if weights.assumed:
        raise ModelError("model_form_unnamed", path=str(weights.path), form=weights.assumed)


def check_text(weights: BaseWeights, model: ModelConfig) -> None:
    """Returns where the text encoders can read captions as the settings state. Of a pickle, they are not known.

    Raises:
        ModelError: `model_clip_skip`, `model_without_clip`.
    """
    text = text_settings(model)
    if weights.family and weights.max_clip_skip is None:
        check_plain_text(text)
    check_clip_skip(weights, text.clip_skip)


def check_same_family(weights: BaseWeights, family: str) -> None:
    """Returns where the base model is of the family that the run was started with, or only loading tells it.

    Raises:
        ModelError: `base_model_other_family`.
    """
    if weights.layout != "pickle" and weights.family != family:
        found, expected = (FAMILY_NAMES.get(name, name) for name in (weights.family, family))
        raise ModelError("base_model_other_family", found=found, expected=expected)


def with_parts(
    config: RunConfig, weights: BaseWeights, here: Path
) -> tuple[RunConfig, tuple[tuple[str, dict[str, Any]], ...]]:
    """The settings with an absolute path for each file that is used besides the base model's own, and notices of those
    that the user has not named, and of files with weights in 8 bits."""
    named = {_absolute(here / expanded(path)) for path in (config.model.vae, *config.model.text_encoder) if path}
    vae, text = _sources(weights, ["vae"]), _sources(weights, weights.names.tokenizers)
    beside = [("vae", path) for path in vae] + [("text-encoder", path) for path in text]
    notices = tuple(("part_beside", {"option": option, "path": path}) for option, path in beside if path not in named)
    in_fp8 = [place for place, files in _files(weights) if any(map(_is_fp8, files))]
    rounded = tuple(("weights_in_fp8", {"path": str(place)}) for place in in_fp8)
    return config.with_values({("model", "vae"): "".join(vae), ("model", "text_encoder"): text}), notices + rounded


def _files(weights: BaseWeights) -> Iterator[tuple[Path, Sequence[Path]]]:
    """The files of the base model with their place: each by itself, those of a folder's component by the component."""
    if weights.layout == "single_file":
        yield weights.path, [weights.path]
    elif weights.layout == "diffusers":
        for component in sorted(set(weights.names.components) - set(weights.replaced)):
            yield weights.path / component, component_files(weights.path, component, weights.names)
    for part in weights.replaced.values():
        yield from ((path, [path]) for path in part.paths)


def _is_fp8(path: Path) -> bool:
    """Whether a file has matrices in 8 bits, by its header; False for pickles."""
    if file_kind(path) == "pickle":
        return False
    return any(info.dtype in FP8 and len(info.shape) > 1 for info in read_header(path).tensors.values())


def _sources(weights: BaseWeights, components: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_absolute(weights.source(name)) for name in components if name in weights.replaced))


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolving would follow the link
