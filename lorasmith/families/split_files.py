"""Base models in several files, as ComfyUI has them: the denoiser in one, each text encoder and the VAE in others.

A file is known by the names and shapes of its tensors. Those that the user does not name are searched for in ComfyUI's
folders beside the denoiser's. A family gives the names and how configs follow from shapes. Needs no torch and reads no
tensor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lorasmith.errors import ModelError
from lorasmith.families.folders import weight_files
from lorasmith.families.foreign_files import check_not_quantized
from lorasmith.families.headers import file_kind, read_header, read_json
from lorasmith.families.ldm_configs import UnusualShapesError
from lorasmith.families.places import Place, shapes_at, whole
from lorasmith.families.weights import ComponentNames, ModelFiles, OtherFile, Shapes

DENOISER = "transformer"
"""The component of the denoiser in diffusers folders."""
Find = Callable[[Iterable[str]], dict[str, Place]]
"""Names in a file -> canonical name: its place; nothing where the file holds no such component."""

_OTHER_CONFIGS = {"scheduler": "scheduler/scheduler_config.json", "pipeline": "model_index.json"}
_FOLDERS = {"text-encoder": ("text_encoders", "clip"), "vae": ("vae",)}  # of ComfyUI, by option
_LEVELS_UP = 3  # from the denoiser's file to the folder that has them
_LEVELS_DOWN = 2
_MAX_FILES = 300  # whose headers are read


@dataclass(frozen=True, slots=True)
class Part:
    """Facts of a component that has a file of its own, a text encoder or the VAE, for the recognizer of a family."""

    people_say: str  # "Qwen3-VL-4B": for messages
    find: Find
    config: Callable[[Shapes, Mapping[str, Any]], dict[str, Any]]
    """Shapes by canonical name, the denoiser's config -> the component's; UnusualShapesError where they do not fit."""
    option: Literal["text-encoder", "vae"] = "text-encoder"
    usual_name: str = ""  # a pattern of names: where several files fit, it decides if it fits a single name


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """Facts of a family's files without a folder around them."""

    find: Find  # of the denoiser
    config: Callable[[Shapes], dict[str, Any]]
    """The denoiser's, from shapes by canonical name; UnusualShapesError where they are of no published form."""
    parts: Mapping[str, Part]  # by component
    published: Mapping[str, Mapping[str, Any]]  # configs that no file has: "scheduler", "pipeline"

    def finder(self, component: str, names: Iterable[str]) -> dict[str, Place]:
        """Places of a component in a file that holds all of them: `ComponentNames.from_single_file`."""
        return self.find(names) if component == DENOISER else self.parts[component].find(names)


def folder_names(
    split: SplitFiles, from_diffusers: Callable[[str, Iterable[str]], dict[str, str]], *, tokenizers: Mapping[str, str]
) -> ComponentNames:
    """The places of the components in the family's diffusers folder, too: each in the folder with its name, text
    encoders as transformers saves them.

    Args:
        from_diffusers: component, names in its files -> canonical name: name there.
        tokenizers: the folder of each text encoder's tokenizer.
    """
    stems = {name: "model" if name.startswith("text_encoder") else "diffusion_pytorch_model" for name in split.parts}
    configs = {name: f"{name}/config.json" for name in (DENOISER, *split.parts)}
    configs |= {name: file for name, file in _OTHER_CONFIGS.items() if name in split.published}
    return ComponentNames(
        weight_stems={DENOISER: "diffusion_pytorch_model", **stems},
        config_files=configs,
        tokenizers=tokenizers,
        from_single_file=split.finder,
        from_folder=whole(from_diffusers),
    )


@dataclass(frozen=True, slots=True)
class Found:
    """A component in a file of its own."""

    file: OtherFile
    config: Mapping[str, Any]
    shapes: Shapes  # by canonical name


def bare_names(names: Iterable[str], mark: str) -> dict[str, str]:
    """Names without the prefix of a file, by which programs tell components apart -> names in the file.

    `mark`: a name that the component has always. Only names with the same prefix as it are returned.
    """
    names = list(names)
    ends = [name for name in names if name == mark or name.endswith(f".{mark}")]
    if not ends:
        return {}
    prefix = min(ends, key=len).removesuffix(mark)
    return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}


def renamed(bare: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str:
    """A bare name after all rules that fit, in order."""
    for pattern, replacement in rules:
        bare = pattern.sub(replacement, bare)
    return bare


def named_parts(files: ModelFiles, split: SplitFiles, configs: Mapping[str, Any], people_say: str) -> dict[str, Found]:
    """The components whose files the user names.

    Args:
        configs: those that are known already, by component; the denoiser's at least.

    Raises:
        ModelError: `part_missing`, `part_other`: nothing is there, or no part that this model needs; `model_quantized`
            and the like.
    """
    found: dict[str, Found] = {}
    vae = () if files.parts.vae is None else (files.parts.vae,)
    for option, paths in (("vae", vae), ("text-encoder", files.parts.text_encoders)):
        for path in paths:
            wanted = {name: part for name, part in split.parts.items() if part.option == option and name not in found}
            found |= _named(path, wanted, configs, people_say)
    return found


def find_parts(files: ModelFiles, split: SplitFiles, configs: Mapping[str, Any], people_say: str) -> dict[str, Found]:
    """The same, and those that lie beside a base model whose file lacks them.

    Raises:
        ModelError: as `named_parts`; `part_several`, more than one file fits; `model_quantized`, none fits but one with
            scales of its own; `model_parts_missing`.
    """
    found, missing = named_parts(files, split, configs, people_say), []
    for name, part in split.parts.items():
        if name in found or part.find(files.shapes):
            continue
        beside = _beside(files.path, part.option)
        fitting = [candidate for file in beside if (candidate := _quietly(part, name, file, configs))]
        if len(fitting) > 1:
            usual = [
                candidate for candidate in fitting if re.search(part.usual_name, candidate.file.asked.stem.lower())
            ]
            fitting = usual if len(usual) == 1 else fitting
        if len(fitting) > 1:
            paths = [str(candidate.file.asked) for candidate in fitting]
            raise ModelError("part_several", part=part.people_say, option=part.option, paths=paths)
        if fitting:
            found[name] = fitting[0]
        else:
            _refuse_quantized(part, name, beside, configs)
            missing.append(f"{part.people_say} (`--{part.option}`)")
    if missing:
        raise ModelError("model_parts_missing", path=str(files.path), family=people_say, missing=", ".join(missing))
    return found


def _named(path: Path, wanted: Mapping[str, Part], configs: Mapping[str, Any], people_say: str) -> dict[str, Found]:
    """The component that the file or folder holds which the user names."""
    if not path.exists():
        raise ModelError("part_missing", path=str(path))
    for name, part in wanted.items():
        found = _fitting(part, name, path, configs)
        if found is not None:
            return {name: found}
    needed = ", ".join(part.people_say for part in wanted.values())
    raise ModelError("part_other", path=str(path), family=people_say, needed=needed or "\u2013")


def _fitting(part: Part, name: str, path: Path, configs: Mapping[str, Any]) -> Found | None:
    """The component in a file, or in a folder with its config; None where it holds another.

    Raises:
        ModelError: it is damaged, pickled or quantised.
    """
    folder = _component_folder(path, name) if path.is_dir() else None
    paths = tuple(weight_files(folder, _stem(folder))) if folder else (path,)
    stored: dict[str, tuple[int, ...]] = {}
    for file in paths:
        if file_kind(file) == "pickle":
            raise ModelError("model_form_unread", path=str(file), found=part.people_say)
        stored |= {name: info.shape for name, info in read_header(file).tensors.items()}
    check_not_quantized(path, stored)
    places = part.find(stored)
    if not places:
        return None
    own = read_json(folder / "config.json") if folder else configs.get(name)
    try:
        shapes = shapes_at(places, stored)
        config = own or part.config(shapes, configs[DENOISER])
    except (UnusualShapesError, ValueError):
        return None
    return Found(OtherFile(asked=path, paths=paths, find=partial(_among, places)), config, shapes)


def _among(places: Mapping[str, Place], names: Iterable[str]) -> dict[str, Place]:
    """The places that are in a file with these tensors, of those in all files of a component."""
    there = set(names)
    return {ours: place for ours, place in places.items() if place.name in there}


def _component_folder(path: Path, component: str) -> Path:
    inside = path / component
    return inside if inside.is_dir() else path


def _stem(folder: Path) -> str:
    return "diffusion_pytorch_model" if any(folder.glob("diffusion_pytorch_model*")) else "model"


def _quietly(part: Part, name: str, path: Path, configs: Mapping[str, Any]) -> Found | None:
    """The component in a file that lies beside the model; None also where the file cannot be used."""
    with suppress(ModelError, OSError):
        return _fitting(part, name, path, configs)
    return None


def _refuse_quantized(part: Part, name: str, paths: Iterable[Path], configs: Mapping[str, Any]) -> None:
    """Returns where no file beside the model holds the component in a form that ComfyUI alone can use.

    Raises:
        ModelError: `model_quantized`, which names the file.
    """
    for path in paths:
        try:
            stored = {tensor: info.shape for tensor, info in read_header(path).tensors.items()}
            places = part.find(stored)
            is_it = bool(places and (configs.get(name) or part.config(shapes_at(places, stored), configs[DENOISER])))
        except (ModelError, OSError, UnusualShapesError, ValueError):
            continue
        if is_it:
            check_not_quantized(path, stored)


def _beside(model: Path, option: str) -> list[Path]:
    """Files in ComfyUI's folders for a kind of component, those nearest to the model."""
    for folder in list(model.absolute().parents)[:_LEVELS_UP]:
        places = [folder / name for name in _FOLDERS[option] if (folder / name).is_dir()]
        if places:
            files = [file for place in places for file in _files_in(place, _LEVELS_DOWN)]
            return list({file.resolve(): file for file in sorted(files)[:_MAX_FILES]}.values())
    return []


def _files_in(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return
    for name, is_folder in sorted(names):
        if not is_folder and name.lower().endswith((".safetensors", ".sft")):
            yield folder / name
        elif is_folder and depth:
            yield from _files_in(folder / name, depth - 1)
