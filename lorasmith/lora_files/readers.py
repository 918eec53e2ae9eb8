"""Says for diffusers, ComfyUI and the WebUI how they would read a LoRA file, by `reader_rules`, layer by layer."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import NamedTuple

from lorasmith.exporting.formats import parse_native, table_in
from lorasmith.families import FAMILIES, native_names
from lorasmith.lora_files.keys import ALPHA, DOWN
from lorasmith.lora_files.modules import LOW_RANK, Module
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_files.reader import LoraFile
from lorasmith.lora_files.reader_rules import (
    COMFYUI,
    DIFFUSERS,
    FORGE,
    FORGE_LIMIT,
    NOT_OF_COMFYUI,
    OF_COMFYUI,
    OF_COMFYUI_ALWAYS,
    OF_DIFFUSERS,
    OF_FORGE,
    OF_KRONECKER,
    TEXT_OF_FORGE,
    WEBUI,
    Form,
    fate,
)

_PREFIXES = (
    "diffusion_model.",
    "transformer.",
    "unet.",
    "base_model.model.",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
)


class Reading(NamedTuple):
    """The outcome where a program loads a file."""

    program: str
    outcome: str
    """A word: whole; part, the rest is left out silently; nothing, and no error; refused, with an error; foreign, the
    program has no models of this family; unknown."""
    layers: int | None  # of the denoiser that it changes; None: not known
    of: int
    has_other_strength: bool = False  # it does not use the file's alphas


def readings(file: LoraFile, family: str = "") -> tuple[Reading, ...]:
    """The outcome in each program, for the layers of the denoiser; none for a family without rules.

    Args:
        family: of the layers; "": by their names.
    """
    family = family or file.family
    modules = [module for module in file.modules if module.component == "denoiser"]
    if family not in OF_DIFFUSERS or not modules:
        return ()
    return _of_diffusers(file, family, modules), _of_comfyui(family, modules), _of_webui(file, family, modules)


def _of_diffusers(file: LoraFile, family: str, modules: list[Module]) -> Reading:
    has_alphas = any(ALPHA in module.keys for module in modules)
    fates = Counter(_fate_in_diffusers(family, module, has_alphas=has_alphas) for module in modules)
    if file.unknown or fates["refused"]:
        return Reading(DIFFUSERS, "refused", 0, len(modules))
    if fates[""]:
        return Reading(DIFFUSERS, "unknown", None, len(modules))
    read, is_unscaled = fates["read"] + fates["unscaled"], fates["unscaled"] > 0
    return Reading(DIFFUSERS, _outcome(read, len(modules)), read, len(modules), is_unscaled)


def _fate_in_diffusers(family: str, module: Module, *, has_alphas: bool) -> str:
    prefix, spellings = _prefix(module), _spellings(family, module)
    if "bias" in module.differences and module.kind in LOW_RANK:  # no rule tells whether it is lost
        return ""
    if module.kind not in LOW_RANK:
        is_read = module.kind == "lokr" and {(prefix, name) for name in spellings} & OF_KRONECKER.get(family, set())
        return "read" if is_read else "refused"
    pair = "AB" if ".lora_A" in module.keys[DOWN] else "du"
    forms = [Form(prefix, name, pair) for name in spellings]
    fates = {fate(OF_DIFFUSERS[family], form, module.path, has_alphas=has_alphas) for form in forms}
    return next((found for found in ("read", "unscaled", "lost", "refused") if found in fates), "")


def _of_comfyui(family: str, modules: list[Module]) -> Reading:
    accepted = OF_COMFYUI_ALWAYS | OF_COMFYUI.get(family, frozenset())
    gaps = re.compile(NOT_OF_COMFYUI.get(family, "$^"))
    if _has_foreign_differences(family, modules):
        return Reading(COMFYUI, "unknown", None, len(modules))
    read = []
    for module in modules:
        names = {name for name in _spellings(family, module) if name == "N" or not gaps.search(module.path)}
        if module.kind and {(_prefix(module), name) for name in names} & accepted:
            read.append(module)
    return Reading(COMFYUI, _outcome(len(read), len(modules)), len(read), len(modules), _ignores_alphas(read))


def _of_webui(file: LoraFile, family: str, modules: list[Module]) -> Reading:
    if family in OF_FORGE:
        return _of_forge(file, family, modules)
    if not FAMILIES[family].in_webui:
        return Reading(WEBUI, "foreign", 0, len(modules))
    if _has_untried_differences(family, modules):
        return Reading(WEBUI, "unknown", None, len(modules))
    table = layers_of(family).table
    read = [module for module in modules if module.kind and module.name in table.modules]
    return Reading(WEBUI, _outcome(len(read), len(modules)), len(read), len(modules))


def _of_forge(file: LoraFile, family: str, modules: list[Module]) -> Reading:
    if _has_untried_differences(family, modules):
        return Reading(FORGE, "unknown", None, len(modules))
    accepted, read, lost = OF_FORGE[family], [], list(file.unknown)
    for module in file.modules:
        if module.component != "denoiser" and not TEXT_OF_FORGE.fullmatch(module.name):
            lost += module.keys.values()
    for module in modules:
        if module.kind and {(_prefix(module), name) for name in _spellings(family, module)} & accepted:
            read.append(module)
        else:
            lost += module.keys.values()
    if len(lost) > FORGE_LIMIT:
        read = []
    return Reading(FORGE, _outcome(len(read), len(modules)), len(read), len(modules), _ignores_alphas(read))


def _ignores_alphas(read: list[Module]) -> bool:
    """Whether alphas stand elsewhere than in these layers, where this reader does not look."""
    return any(ALPHA not in module.keys and module.alpha not in (None, module.rank) for module in read)


def _has_untried_differences(family: str, modules: list[Module]) -> bool:
    """Whether there are differences that these programs were not tried with: the rules are those of other kinds."""
    return any("bias" in module.differences for module in modules) or _has_foreign_differences(family, modules)


def _has_foreign_differences(family: str, modules: list[Module]) -> bool:
    """Whether there are differences of layers that no LoRA has, as norms."""
    return any(module.differences and not _spellings(family, module) for module in modules)


def _outcome(read: int, of: int) -> str:
    return "whole" if read == of else "part" if read else "nothing"


def _prefix(module: Module) -> str:
    return next((prefix for prefix in _PREFIXES if module.name.startswith(prefix)), "")


def _spellings(family: str, module: Module) -> list[str]:
    """N where the module's path is one of the original model, D where it is one of diffusers."""
    native, diffusers = _paths(family)
    return [name for name, paths in (("N", native), ("D", diffusers)) if module.path in paths]


@cache
def _paths(family: str) -> tuple[frozenset[str], frozenset[str]]:
    """The paths of the denoiser's layers, with "_" for ".", in the original model and in diffusers."""
    table, places = layers_of(family).table, parse_native(native_names(family))
    native, diffusers = table_in(table, "comfyui", places), table_in(table, "diffusers", places)
    prefix = "diffusion_model." if "." in next(iter(native.modules)) else "lora_unet_"
    names = (name.removeprefix(prefix) for name, rows in native.modules.items() if rows[0].component == "denoiser")
    targets = (name.partition(".")[2] for name, row in diffusers.targets.items() if row.component == "denoiser")
    return frozenset(name.replace(".", "_") for name in names), frozenset(name.replace(".", "_") for name in targets)
