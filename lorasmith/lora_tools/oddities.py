"""Facts of a LoRA file that a reader of it should know: what some program misreads, ignores or refuses.

What programs do was measured: docs/formats.md and ADR 26 have the versions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasmith.lora_files.keys import DORA
from lorasmith.lora_files.modules import LOW_RANK
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of, marked_family
from lorasmith.lora_files.reader import LoraFile
from lorasmith.lora_files.reader_rules import FORGE_LIMIT

SHOWN = 3  # names in a message
_CONVOLUTIONS = ("locon", "tucker")
_UNETS = ("sd15", "sd2", "sdxl")


@dataclass(frozen=True, slots=True)
class Measured:
    """Facts that only the numbers tell."""

    norms: Mapping[str, float | None]  # by module
    not_finite: tuple[str, ...]  # modules with NaN or infinity
    zero: tuple[str, ...]  # modules without a change


@dataclass(frozen=True, slots=True)
class Oddity:
    """An odd fact: its sentence is `odd.<code>`."""

    code: str
    fields: dict[str, Any] = field(default_factory=dict)


def oddities(file: LoraFile, measured: Measured, hashes: Mapping[str, str]) -> tuple[Oddity, ...]:
    """All odd facts, the gravest first."""
    found = [
        *_numbers(measured),
        *_names(file),
        *_alphas(file),
        *_kinds(file),
        *_metadata(file, hashes),
    ]
    return tuple(found)


def _numbers(measured: Measured) -> list[Oddity]:
    found = []
    if measured.not_finite:
        found.append(_listed("not_finite", measured.not_finite))
    if measured.zero:
        found.append(Oddity("zero_modules", {"count": len(measured.zero), "of": len(measured.norms)}))
    return found


def _names(file: LoraFile) -> list[Oddity]:
    found = []
    incomplete = [module.name for module in file.modules if not module.kind]
    if incomplete:
        found.append(_listed("incomplete", incomplete))
    if file.unknown:
        found.append(_listed("unknown_keys", file.unknown))
    if not file.families:
        return [*found, Oddity("family_unknown")]
    if len(file.namings) > 1:
        found.append(Oddity("several_namings", {"namings": ", ".join(sorted(file.namings))}))
    flat = [
        module.name
        for module in file.modules
        if module.component.startswith("text_encoder") and module.path.startswith("encoder_layers_")
    ]
    if flat:
        found.append(_listed("text_names", flat))
    if file.family not in _UNETS:
        return found
    if set(file.namings) & {"diffusers", "diffusers_old", "peft", "bare", "onetrainer", "omi"}:
        found.append(Oddity("not_for_webuis", {"naming": ", ".join(sorted(file.namings))}))
    try:
        layers = layers_of(file.family)
    except KeyError:  # a family without a table
        return found
    foreign = [module for module in file.modules if not layers.module_of(module)]
    if foreign:
        keys = sum(len(module.keys) for module in foreign)
        code = "foreign_layers_many" if keys > FORGE_LIMIT else "foreign_layers"
        found.append(_listed(code, [module.name for module in foreign], keys=keys))
    return found


def _alphas(file: LoraFile) -> list[Oddity]:
    if file.family and file.family not in _UNETS:  # of which diffusers takes each alpha, or refuses the file
        return []
    scaled = [module for module in file.modules if module.rank is not None]
    missing = sum(module.alpha is None for module in scaled)
    if missing and missing == len(scaled):
        return [Oddity("alpha_missing")]
    found = []
    if missing:
        found.append(Oddity("alpha_missing_in_part", {"count": missing, "of": len(scaled)}))
    for component in file.components:
        own = [module for module in scaled if module.component == component and module.alpha is not None]
        own = [module for module in own if module.kind in LOW_RANK]  # of other kinds diffusers mixes no alphas
        others = Counter(module.alpha for module in own if module.kind not in _CONVOLUTIONS)
        convolutions = Counter(module.alpha for module in own if module.kind in _CONVOLUTIONS)
        # Convolutions may have an alpha of their own, unless it is the commonest, which diffusers gives to all.
        is_commonest = others and max(convolutions.values(), default=0) >= others.total()
        if len(others) > 1 or (is_commonest and len(others | convolutions) > 1):
            found.append(Oddity("alphas_differ", {"count": len(others | convolutions), "component": component}))
    return found


def _kinds(file: LoraFile) -> list[Oddity]:
    found = []
    if len(file.kinds.keys() - {"locon"}) > 1:
        found.append(Oddity("several_kinds", {"kinds": ", ".join(sorted(file.kinds))}))
    out_axis = [
        module
        for module in file.modules
        if module.has_dora and len(module.tensors[DORA].shape) > 1 and module.tensors[DORA].shape[0] > 1
    ]
    if out_axis:
        found.append(Oddity("dora_by_output", {"count": len(out_axis)}))
    flat = [module for module in file.modules if module.has_dora and len(module.tensors[DORA].shape) == 1]
    if flat:
        found.append(Oddity("dora_flat", {"count": len(flat)}))
    return found


def _metadata(file: LoraFile, hashes: Mapping[str, str]) -> list[Oddity]:
    metadata = file.metadata
    if not metadata:
        return [Oddity("no_metadata")]
    found = []
    stated = marked_family(metadata)
    if stated and file.families and stated not in file.families:
        names = {"stated": FAMILY_NAMES[stated], "found": FAMILY_NAMES.get(file.family, file.family)}
        found.append(Oddity("metadata_of_another_family", names))
    if metadata.get("sshs_model_hash", hashes["sshs_model_hash"]) != hashes["sshs_model_hash"]:
        found.append(Oddity("hash_differs"))
    if not _starts_as_forge_wants(file.path):
        found.append(Oddity("header_start"))
    if "ss_base_model_version" not in metadata and "modelspec.architecture" not in metadata:
        found.append(Oddity("version_not_stated"))
    if "lora_adapter_metadata" in metadata and set(file.namings) & {"kohya", "lycoris"}:
        found.append(Oddity("adapter_metadata"))
    return found


def _starts_as_forge_wants(path: Path) -> bool:
    """Whether the header begins with `{"`, without a space: Forge refuses other files."""
    with path.open("rb") as file:
        file.seek(8)
        return file.read(2) == b'{"'


def _listed(code: str, names: tuple[str, ...] | list[str], **fields: Any) -> Oddity:
    return Oddity(code, {"count": len(names), "names": ", ".join(names[:SHOWN]), **fields})
