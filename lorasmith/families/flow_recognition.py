"""Reads what a model of flow matching is, from its headers and configs; a family gives the facts.

Needs no torch and reads no tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families.distilled import distilled_by
from lorasmith.families.folders import component_shapes, missing_files
from lorasmith.families.foreign_files import LORA_KEY
from lorasmith.families.headers import check_tokenizer, read_json
from lorasmith.families.weights import BaseWeights, ComponentNames, ModelFiles, NoiseSettings, Shapes

DENOISER = "transformer"
"""The component of the denoiser in diffusers folders."""
_RESOLUTION = 1024
_BUCKET_STEP = 64

Configs = Mapping[str, Any]
"""The configs of a model by component, and "scheduler", "pipeline"."""


@dataclass(frozen=True, slots=True)
class FlowFamily:
    """Facts of a family for its recognizer."""

    name: str  # a key of FAMILIES
    people_say: str  # "Krea 2": for messages
    pipelines: frozenset[str]  # in model_index.json
    names: ComponentNames
    wrong_setting: Callable[[Configs], str]
    """The first setting on which training depends and that has no sense; "": none."""
    size_multiple: Callable[[Configs], int]
    """Pixels of which both sides of a picture are multiples."""
    depths: Callable[[Configs], Mapping[str, int]] = lambda configs: {}  # noqa: ARG005
    """The number of blocks in each list of them, by target, where models of the family differ in it."""


def is_folder_of(files: ModelFiles, family: FlowFamily) -> bool:
    """Whether the files are a diffusers folder of this family."""
    return files.layout == "diffusers" and files.index.get("_class_name") in family.pipelines


def folder_model(files: ModelFiles, family: FlowFamily) -> BaseWeights:
    """The model of a diffusers folder of this family.

    Raises:
        ModelError: it is incomplete, damaged or of a form that cannot be trained.
    """
    path, names = files.path, family.names
    missing = missing_files(path, names)
    if missing:
        raise ModelError("model_incomplete", path=str(path), missing=", ".join(missing))
    shapes = {component: component_shapes(path, component, names) for component in names.components}
    denoiser = shapes[DENOISER] or {}
    if any(LORA_KEY.search(name) for name in denoiser):
        raise ModelError("model_is_lora", path=str(path))
    configs: dict[str, Any] = {name: read_json(path / file) for name, file in names.config_files.items()}
    for tokenizer in names.tokenizers.values():
        check_tokenizer(path / tokenizer)
    configs = {**dict.fromkeys(names.tokenizers.values()), **configs}
    return described(files, family, configs, denoiser)


def described(files: ModelFiles, family: FlowFamily, configs: Configs, denoiser: Shapes) -> BaseWeights:
    """The model with these configs, which are checked as far as training depends on them.

    Args:
        denoiser: shapes of its tensors; empty where they are pickled.

    Raises:
        ModelError: `model_damaged`, `model_prediction`.
    """
    wrong = family.wrong_setting(configs)
    if wrong:
        raise ModelError("model_damaged", path=str(files.path), where=wrong)
    multiple = family.size_multiple(configs)
    return BaseWeights(
        path=files.path,
        layout=files.layout,
        family=family.name,
        noise=_noise(files, family),
        resolution=_RESOLUTION,
        size_multiple=multiple,
        bucket_step=max(_BUCKET_STEP, multiple),
        denoiser_parameters=sum(map(prod, denoiser.values())) or None,
        max_clip_skip=None,
        configs=configs,
        names=family.names,
        distilled=distilled_by(files, {}),
        depths=family.depths(configs),
    )


def are_numbers(values: Any) -> bool:
    """Whether a setting is a list of numbers."""
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def _noise(files: ModelFiles, family: FlowFamily) -> NoiseSettings:
    asked, path = files.requested, str(files.path)
    if asked.prediction not in ("auto", "flow"):
        found = f"{family.people_say}, --prediction {asked.prediction}"
        raise ModelError("model_prediction", path=path, found=found)
    if asked.zero_terminal_snr == "on":
        raise ModelError("model_prediction", path=path, found=f"{family.people_say}, --zero-terminal-snr on")
    return NoiseSettings("flow", zero_terminal_snr=False, source="scheduler_config", requested=asked)
