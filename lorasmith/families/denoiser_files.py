"""Finds the denoiser of a model of flow matching, whatever the model was made for: the tools for LoRA files change the
weights of distilled models and of editors too, and need neither text encoders nor VAE. Needs no torch and reads no
tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lorasmith.errors import ModelError
from lorasmith.families import FAMILIES, flow_names
from lorasmith.families.folders import component_files
from lorasmith.families.foreign_files import check_not_quantized, header_of_plain_weights
from lorasmith.families.headers import Header, file_kind, read_header, read_json
from lorasmith.families.places import Place
from lorasmith.families.split_files import DENOISER
from lorasmith.families.weights import INDEXES, ComponentNames, Layout


@dataclass(frozen=True, slots=True)
class DenoiserFiles:
    """The files that hold a denoiser."""

    family: str
    layout: Layout
    headers: Mapping[Path, Header]
    find: Callable[[Iterable[str]], dict[str, Place]]  # names in one of the files -> canonical name: its place


def find_denoiser(path: Path) -> DenoiserFiles | None:
    """The denoiser in a diffusers folder or a safetensors file; None where it is of no family of flow matching.

    Raises:
        ModelError: `tool_pickle`, `model_is_lora`, `model_quantized`, `model_incomplete`, `model_damaged` and the like.
    """
    families = {name: names for name in FAMILIES if (names := flow_names(name)) is not None}
    if path.is_dir():
        return _in_folder(path, families)
    if file_kind(path) == "pickle":
        return None
    header = header_of_plain_weights(path)
    for family, names in families.items():
        find = partial(names.from_single_file, DENOISER)
        if find(header.tensors):
            return DenoiserFiles(family, "single_file", {path: header}, find)
    return None


def _in_folder(path: Path, families: Mapping[str, ComponentNames]) -> DenoiserFiles | None:
    """Pipelines that change pictures have names of their own, and the layers of the family's."""
    index = next((path / name for name in INDEXES if (path / name).is_file()), None)
    if index is None or not (path / DENOISER).is_dir():
        return None
    files = component_files(path, DENOISER, next(iter(families.values())))
    for file in files:
        if file_kind(file) == "pickle":
            raise ModelError("tool_pickle", path=str(file))
    headers = {file: read_header(file) for file in files}
    stored = [name for header in headers.values() for name in header.tensors]
    check_not_quantized(path, stored)
    pipeline = read_json(index).get("_class_name")
    for family, names in families.items():
        if pipeline in FAMILIES[family].pipelines or names.from_single_file(DENOISER, stored):
            return DenoiserFiles(family, "diffusers", headers, partial(names.from_folder, DENOISER))
    return None
