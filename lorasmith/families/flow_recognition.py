"""Reads what a model of flow matching is, from its headers and configs; a family gives the facts.

Needs no torch and reads no tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families.config_checks import described_configs
from lorasmith.families.distilled import distilled_by
from lorasmith.families.folders import component_shapes, missing_files
from lorasmith.families.foreign_files import LORA_KEY
from lorasmith.families.headers import check_tokenizer, read_json
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import shapes_at
from lorasmith.families.split_files import DENOISER, SplitFiles, find_parts, named_parts
from lorasmith.families.weights import (
    CONFIGS_KEY,
    NO_PARTS,
    BaseWeights,
    ComponentNames,
    ModelFiles,
    NoiseSettings,
    Shapes,
)

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
    depths: Mapping[str, tuple[str, int]]
    """By list of blocks, as targets name it: the setting of the denoiser with their number, and what it is where a
    config leaves it out."""
    split: SplitFiles | None = None  # None: only diffusers folders of it can be read


def is_folder_of(files: ModelFiles, family: FlowFamily) -> bool:
    """Whether the files are a diffusers folder of this family."""
    return files.layout == "diffusers" and files.index.get("_class_name") in family.pipelines


def is_single_file_of(files: ModelFiles, family: FlowFamily) -> bool:
    """Whether the file holds this family's denoiser."""
    return files.layout == "single_file" and family.split is not None and bool(family.split.find(files.shapes))


def single_file_model(files: ModelFiles, family: FlowFamily) -> BaseWeights:
    """The model whose denoiser is in this file, with its text encoders and VAE in the same or in other files.

    Raises:
        ModelError: a part is missing, damaged or of a form that cannot be trained.
    """
    split, path = family.split, str(files.path)
    assert split is not None
    known = described_configs(files) or {}
    if not all(isinstance(known.get(name, {}), dict) for name in family.names.config_files):
        raise ModelError("model_damaged", path=path, where=CONFIGS_KEY)
    try:
        shapes = shapes_at(split.find(files.shapes), files.shapes)
        denoiser = known.get(DENOISER) or split.config(shapes)
        found = find_parts(files, split, {**known, DENOISER: denoiser}, family.people_say)
        found_configs = {name: part.config for name, part in found.items()}
        for name in split.parts.keys() - found.keys():
            stored = shapes_at(split.parts[name].find(files.shapes), files.shapes)
            found_configs[name] = known.get(name) or split.parts[name].config(stored, denoiser)
    except UnusualShapesError as error:
        raise ModelError("model_configs_needed", path=path, key=CONFIGS_KEY) from error
    except ValueError as error:
        raise ModelError("model_damaged", path=path, where=str(error)) from error
    tokenizers = dict.fromkeys(family.names.tokenizers.values())
    configs = {**tokenizers, **split.published, **known, **found_configs, DENOISER: denoiser}
    return replace(
        described(files, family, configs, shapes), replaced={name: part.file for name, part in found.items()}
    )


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
    if family.split is None or files.parts == NO_PARTS:
        return described(files, family, configs, denoiser)
    found = named_parts(files, family.split, configs, family.people_say)
    for name, part in found.items():
        own = shapes_at(names.from_folder(name, shapes[name] or {}), shapes[name] or {})
        if own and part.shapes != own:
            needed = family.split.parts[name].people_say
            raise ModelError("part_other", path=str(part.file.asked), family=family.people_say, needed=needed)
    configs |= {name: part.config for name, part in found.items()}
    return replace(
        described(files, family, configs, denoiser), replaced={name: part.file for name, part in found.items()}
    )


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
    depths = {blocks: configs[DENOISER].get(name, usual) for blocks, (name, usual) in family.depths.items()}
    for blocks, depth in depths.items():
        if type(depth) is not int:
            where = f"{DENOISER}/config.json: {family.depths[blocks][0]}"
            raise ModelError("model_damaged", path=str(files.path), where=where)
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
        depths=depths,
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
