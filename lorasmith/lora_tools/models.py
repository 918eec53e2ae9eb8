"""Base models for the tools: where a file has the weight of each layer, and new files from old, tensor by tensor.

No more than one tensor is in memory at a time; the new file has the old file's names, order and data types.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lorasmith.errors import InputError, ModelError
from lorasmith.families import flow_names
from lorasmith.families.denoiser_files import DenoiserFiles, find_denoiser
from lorasmith.families.folders import component_files
from lorasmith.families.headers import Header, file_kind, read_header
from lorasmith.families.places import Finder, Place
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import BaseWeights, ComponentNames, Layout, Prediction
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_tools.arrays import Array, header_bytes, read_array, to_bytes
from lorasmith.runs.durable import map_write_errors, place_new, sync_folder, write_atomically

Change = Callable[[Array], Array]  # a weight -> the new weight, of the same shape

_WRITABLE = ("F64", "F32", "BF16", "F16")
_CHUNK = 2**24  # bytes
_WEIGHT_FILES = (".safetensors", ".bin", ".ckpt", ".pt", ".msgpack", ".onnx", ".h5")
_STALE = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")  # hashes of the tensors before


@dataclass(frozen=True, slots=True)
class WeightAt:
    """The weight of a layer in a file."""

    target: str  # as the model has it: "denoiser.mid_block.attentions.0.proj_in"
    file: Path
    place: Place


@dataclass(frozen=True, slots=True)
class Model:
    """A base model that has its weights in safetensors files."""

    path: Path
    layout: Layout
    family: str
    prediction: Prediction
    headers: Mapping[Path, Header]
    places: Mapping[str, WeightAt]  # by target

    @property
    def components(self) -> frozenset[str]:
        """The parts of the model that it has weights of: beside a denoiser of flow matching no text encoder need be."""
        return frozenset(component_of(target) for target in self.places)

    def read(self, target: str) -> Array:
        """The weight of a layer, as float32.

        Raises:
            ModelError: `model_damaged`.
        """
        at = self.places[target]
        info = self.headers[at.file].tensors[at.place.name]
        try:
            with at.file.open("rb") as file:
                array = read_array(file, at.place.info(info))
        except (KeyError, ValueError) as error:
            raise ModelError("model_damaged", path=str(at.file), where=at.place.name) from error
        return _turned(array, at.place)


def component_of(target: str) -> str:
    """The part of the model that a layer is in."""
    return target.partition(".")[0]


def open_model(path: Path) -> Model:
    """Recognizes a base model, a diffusers folder or a single file; of a family of flow matching the denoiser alone may
    be in it, and it may have been distilled.

    Raises:
        ModelError: `tool_no_model`, `tool_pickle`, or what `find_denoiser` and `recognize` raise.
    """
    if not path.exists():
        raise ModelError("tool_no_model", path=str(path))
    denoiser = find_denoiser(path)
    if denoiser:
        return _of_denoiser(path, denoiser)
    weights = recognize(path)
    if weights.layout == "pickle":
        raise ModelError("tool_pickle", path=str(path))
    headers: dict[Path, Header] = {}
    places: dict[str, WeightAt] = {}
    parts = {row.component for row in layers_of(weights.family).table.targets.values()}
    for component in sorted(parts):
        name = "unet" if component == "denoiser" and "unet" in weights.names.components else component
        for file, finder in _files(weights, name):
            if file_kind(file) == "pickle":
                raise ModelError("tool_pickle", path=str(file))
            header = headers.setdefault(file, read_header(file))
            places |= _weights_in(file, component, finder(name, header.tensors))
    return Model(path, weights.layout, weights.family, weights.noise.prediction, headers, places)


def _of_denoiser(path: Path, denoiser: DenoiserFiles) -> Model:
    places: dict[str, WeightAt] = {}
    for file, header in denoiser.headers.items():
        places |= _weights_in(file, "denoiser", denoiser.find(header.tensors))
    headers = dict(denoiser.headers)
    names = flow_names(denoiser.family)
    parts = {row.component for row in layers_of(denoiser.family).table.targets.values()}
    for component in sorted(parts - {"denoiser"}):
        for file, finder in _beside(path, denoiser, component, names) if names else ():
            headers.setdefault(file, read_header(file))
            places |= _weights_in(file, component, finder(component, headers[file].tensors))
    return Model(path, denoiser.layout, denoiser.family, "flow", headers, places)


def _beside(path: Path, denoiser: DenoiserFiles, component: str, names: ComponentNames) -> list[tuple[Path, Finder]]:
    """The files with a text encoder that LoRA files may change, where the model has it in safetensors files."""
    if denoiser.layout == "single_file":
        return [(path, names.from_single_file)]
    if not (path / component).is_dir():
        return []
    files = component_files(path, component, names)
    return [] if any(file_kind(file) == "pickle" for file in files) else [(file, names.from_folder) for file in files]


def _weights_in(file: Path, component: str, places: Mapping[str, Place]) -> dict[str, WeightAt]:
    """The weights of layers among the tensors of a component that a file holds, by target."""
    targets = {
        f"{component}.{canonical.removesuffix('.weight')}": place
        for canonical, place in places.items()
        if canonical.endswith(".weight")
    }
    return {target: WeightAt(target, file, place) for target, place in targets.items()}


def _files(weights: BaseWeights, component: str) -> list[tuple[Path, Finder]]:
    if weights.layout == "single_file":
        return [(weights.path, weights.names.from_single_file)]
    files = component_files(weights.path, component, weights.names)
    return [(file, weights.names.from_folder) for file in files]


def write_changed(model: Model, out: Path, changes: Mapping[str, Change]) -> Path:
    """Writes the model with some weights changed: a file, or a folder with everything else that the old folder has.

    `changes`: by target.

    Raises:
        ModelError: `tool_weight_type`, `tool_not_finite`.
        InputError: the folder cannot be written, or the disk is full; nothing is left.
    """
    by_file: dict[Path, dict[str, list[tuple[Place, Change]]]] = {path: {} for path in model.headers}
    for target, change in changes.items():
        at = model.places[target]
        by_file[at.file].setdefault(at.place.name, []).append((at.place, change))
    with map_write_errors(out.parent):
        if model.layout == "single_file":
            return _write_file(model.headers[model.path], out, by_file[model.path])
        temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
        try:
            _copy_all_but(model, temporary)
            for path, tensors in by_file.items():
                _write_file(model.headers[path], temporary / path.relative_to(model.path), tensors)
            place_new(temporary, out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(out.parent)
    return out


def check_writable(header: Header, name: str) -> None:
    """Returns where a changed weight can be written as the file has it.

    Raises:
        ModelError: `tool_weight_type`.
    """
    dtype = header.tensors[name].dtype
    if dtype not in _WRITABLE:
        raise ModelError("tool_weight_type", path=str(header.path), name=name, dtype=dtype)


def _copy_all_but(model: Model, temporary: Path) -> None:
    """Copies a folder without the weight files that are written anew, and without other forms of the same weights."""
    changed = {path.parent for path in model.headers}

    def left_out(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if Path(folder) in changed and name.endswith(_WEIGHT_FILES)}

    shutil.copytree(model.path, temporary, ignore=left_out)


def _write_file(header: Header, out: Path, changes: Mapping[str, list[tuple[Place, Change]]]) -> Path:
    """Writes a file with these tensors changed, and reads it back."""
    for name in changes:
        check_writable(header, name)
    written = hashlib.sha256()

    def counted() -> Iterator[bytes]:
        for piece in _pieces(header, changes):
            written.update(piece)
            yield piece

    def check(temporary: Path) -> None:
        with temporary.open("rb") as file:
            read = hashlib.file_digest(file, "sha256")
        if read.digest() != written.digest() or read_header(temporary).tensors.keys() != header.tensors.keys():
            raise InputError("tool_not_as_written", path=str(out))

    return write_atomically(out, counted(), check=check, is_new=True)


def _pieces(header: Header, changes: Mapping[str, list[tuple[Place, Change]]]) -> Iterator[bytes]:
    """The bytes of the new file: tensors in the old order."""
    ordered = sorted(header.tensors.items(), key=lambda item: (item[1].start, item[1].end))
    metadata = {key: value for key, value in header.metadata.items() if key not in _STALE}
    yield header_bytes({name: (info.dtype, info.shape) for name, info in ordered}, metadata)
    with header.path.open("rb") as source:
        for name, info in ordered:
            if name in changes:
                yield to_bytes(_changed(header, name, read_array(source, info), changes[name]), info.dtype)
                continue
            source.seek(info.start)
            for start in range(info.start, info.end, _CHUNK):
                yield source.read(min(_CHUNK, info.end - start))


def _turned(array: Array, place: Place) -> Array:
    """A weight as the model has it, from the file's."""
    return np.ascontiguousarray(array.T) if place.is_transposed else _swapped(array, place)


def _swapped(array: Array, place: Place) -> Array:
    """The weight with its halves in the other order where the file has the second first; the way there and back."""
    halves = np.split(array, 2) if place.swaps_halves else [array]
    return np.ascontiguousarray(np.concatenate(halves[::-1]))


def _changed(header: Header, name: str, array: Array, changes: list[tuple[Place, Change]]) -> Array:
    """The tensor with its parts changed."""
    result = array.copy()
    for place, change in changes:
        whole = result.T if place.is_transposed else result
        rows = whole.shape[0] // place.parts
        part = whole[place.part * rows : (place.part + place.span) * rows]
        changed = change(_swapped(part, place))
        part[...] = _swapped(changed, place)
    largest = np.float32(65504 if header.tensors[name].dtype == "F16" else np.finfo(np.float32).max)
    if not bool((np.abs(result) <= largest).all()):
        raise ModelError("tool_not_finite", path=str(header.path), name=name)
    return result
