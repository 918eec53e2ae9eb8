"""Reads what a LoRA file is: its layers, their kinds and ranks, and the family of models that they are for.

Reads headers and single numbers, no other tensor, and needs no torch.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from lorasmith.errors import ModelError
from lorasmith.families.headers import Header, TensorInfo, file_kind, read_header
from lorasmith.lora_files.keys import ALPHA, Key, split_key
from lorasmith.lora_files.modules import Module
from lorasmith.lora_files.names import families_of, layers_of, trains_text
from lorasmith.lora_files.peft_settings import WEIGHTS_FILE, PeftSettings, read_peft_settings

_OF_LORAS = {  # errors of `headers`, which speak of base models
    "model_unreadable": "lora_unreadable",
    "model_irregular": "lora_irregular",
    "model_truncated": "lora_truncated",
    "model_damaged": "lora_damaged",
    "model_unknown": "lora_unknown",
}
_WITHOUT_ALPHA = ("diffusers", "diffusers_old", "peft", "bare", "comfyui")  # namings whose alphas may stand elsewhere
_FORMS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i"}


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file, by its header."""

    header: Header
    modules: tuple[Module, ...]
    unknown: tuple[str, ...]  # keys that belong to no module
    families: tuple[str, ...]  # keys of FAMILY_NAMES: several where nothing decides between them

    @property
    def family(self) -> str:
        """The family, the likeliest of several; "" if it is not known."""
        return next(iter(self.families), "")

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.header.metadata

    @cached_property
    def kinds(self) -> Counter[str]:
        """The number of modules of each kind; DoRA of any kind counts as `dora`."""
        return Counter("dora" if module.has_dora else module.kind or "incomplete" for module in self.modules)

    @cached_property
    def differences(self) -> Counter[str]:
        """The number of differences that are stored whole, by their kind."""
        return Counter(kind for module in self.modules for kind in module.differences)

    @cached_property
    def namings(self) -> Counter[str]:
        return Counter(module.naming for module in self.modules)

    @cached_property
    def components(self) -> Counter[str]:
        return Counter(sorted(module.component for module in self.modules))

    @cached_property
    def ranks(self) -> Counter[int]:
        return Counter(module.rank for module in self.modules if module.rank is not None)

    @cached_property
    def alphas(self) -> Counter[float | None]:
        return Counter(module.alpha for module in self.modules)

    @cached_property
    def dtypes(self) -> Counter[str]:
        """The number of tensors of each data type, without the alphas."""
        return Counter(
            info.dtype for module in self.modules for suffix, info in module.tensors.items() if suffix != ALPHA
        )

    @property
    def rank(self) -> int | None:
        """The largest rank of the layers, without that of 3x3 convolutions where others exist."""
        ranks = [module.rank for module in self.modules if module.kind not in ("locon", "tucker") and module.rank]
        return max(ranks, default=max(self.ranks, default=None))

    @property
    def alpha(self) -> float | None:
        """The alpha of all layers; None where they differ, and where a file has none that can be used."""
        alpha = next(iter(self.alphas)) if len(self.alphas) == 1 else None
        return alpha if alpha is not None and math.isfinite(alpha) and alpha > 0 else None

    @property
    def of_windows(self) -> tuple[int, float | None] | None:
        """The largest rank, and the alpha if it is the same, of convolutions larger than 1x1; None without any."""
        modules = [module for module in self.modules if module.kind in ("locon", "tucker") and module.rank]
        if not modules:
            return None
        alphas = {module.alpha for module in modules}
        alpha = alphas.pop() if len(alphas) == 1 else None
        return max(module.rank or 0 for module in modules), alpha if alpha is not None and alpha > 0 else None

    @property
    def has_text_encoder(self) -> bool:
        return any(name.startswith("text_encoder") for name in self.components)


def read_lora(path: Path) -> LoraFile:
    """Reads the header of a LoRA file and groups its tensors by layer.

    Raises:
        ModelError: a code of _OF_LORAS, `lora_folder`, `lora_pickle`, `lora_none`, or what the file is in place of
            weights.
    """
    if path.is_dir() and (inside := _file_inside(path)):
        raise ModelError("lora_folder", path=str(path), file=str(inside))
    try:
        if file_kind(path) == "pickle":
            raise ModelError("lora_pickle", path=str(path))
        header = read_header(path)
        settings = read_peft_settings(path, header.metadata)
    except ModelError as error:
        raise ModelError(_OF_LORAS.get(error.code, error.code), **error.fields) from error
    grouped: dict[str, list[tuple[str, Key]]] = {}
    unknown = []
    for name in header.tensors:
        key = split_key(name)
        if key is None:
            unknown.append(name)
        elif any(other.suffix == key.suffix for _, other in grouped.get(key.module, ())):
            unknown.append(name)  # the same tensor in a second spelling
        else:
            grouped.setdefault(key.module, []).append((name, key))
    modules = []
    with path.open("rb") as file:
        for members in grouped.values():
            if all(key.suffix == "weight" for _, key in members):  # of any model, not of an adapter
                unknown += [name for name, _ in members]
            else:
                modules.append(_module(header, members, file, settings))
    if not modules:
        raise ModelError("lora_none", path=str(path), count=len(unknown))
    return LoraFile(header, tuple(modules), tuple(unknown), families_of(modules, header.metadata))


def without_untrained_text(file: LoraFile, family: str) -> LoraFile:
    """The file without layers of text encoders, where no adapter of this family may change one. Other trainers write
    them into LoRAs of FLUX.1 and Anima. `family`: "" where it is not known."""
    if not family or trains_text(family):
        return file
    kept = tuple(module for module in file.modules if not module.component.startswith("text_encoder"))
    return replace(file, modules=kept)


def _file_inside(folder: Path) -> Path | None:
    """The first LoRA file of a folder of PEFT, or of a folder with a folder for each part of the model."""
    return min((*folder.glob(WEIGHTS_FILE), *folder.glob(f"*/{WEIGHTS_FILE}")), default=None)


def _module(
    header: Header, members: list[tuple[str, Key]], file: BinaryIO, settings: Mapping[str, PeftSettings]
) -> Module:
    key = next((key for _, key in members if key.suffix != ALPHA), members[0][1])
    tensors = {key.suffix: header.tensors[name] for name, key in members}
    module = Module(
        name=key.module,
        naming=key.naming,
        component=key.component,
        path=key.path,
        tensors=tensors,
        keys={key.suffix: name for name, key in members},
        alpha=read_number(file, tensors[ALPHA]) if ALPHA in tensors else None,
    )
    if module.alpha is None and module.rank and key.component in settings and key.naming in _WITHOUT_ALPHA:
        return replace(module, alpha=settings[key.component].alpha_of(key.dotted, module.rank))
    return module


def read_number(file: BinaryIO, info: TensorInfo) -> float:
    """The number that a tensor of one element holds; NaN for any other tensor."""
    if math.prod(info.shape) != 1:
        return math.nan
    file.seek(info.start)
    data = file.read(info.end - info.start)
    if info.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    return float(struct.unpack(_FORMS[info.dtype], data)[0]) if info.dtype in _FORMS else math.nan


def names_in_table(file: LoraFile, family: str) -> dict[str, str]:
    """Key in the file -> the name of the same tensor in the family's table; keys of no layer stay as they are."""
    layers = layers_of(family)
    renamed = {key: key for key in file.unknown}
    for module in file.modules:
        name = layers.module_of(module)
        renamed |= {key: f"{name}.{suffix}" if name else key for suffix, key in module.keys.items()}
    return renamed


def alphas_beside(file: LoraFile, family: str) -> dict[str, float]:
    """Alphas that stand in settings instead of the file's tensors, by the names of the family's table."""
    layers = layers_of(family)
    return {
        f"{layers.module_of(module)}.{ALPHA}": module.alpha
        for module in file.modules
        if module.alpha is not None and ALPHA not in module.keys and layers.module_of(module)
    }
