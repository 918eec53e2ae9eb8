"""The weight files of a diffusers folder. Knows no model and reads no tensor."""

from __future__ import annotations

from pathlib import Path

from lorasmith.errors import ModelError
from lorasmith.families.headers import file_kind, read_header, read_json
from lorasmith.families.weights import ComponentNames

_SHOWN = 120  # characters of a name in a message
_PICKLED = {"model": "pytorch_model"}  # stem of a safetensors file -> of the pickle in its place, where they differ


def missing_files(folder: Path, names: ComponentNames) -> list[str]:
    """Configs and tokenizers that a folder lacks."""
    wanted = [*names.config_files.values(), *names.tokenizers.values()]
    return [name for name in wanted if not (folder / name).exists()]


def component_files(folder: Path, component: str, names: ComponentNames) -> list[Path]:
    """The weight files of a component, in order: full precision first, then fp16, then pickles.

    Raises:
        ModelError: `model_incomplete`, `model_damaged`.
    """
    return weight_files(folder / component, names.weight_stems[component])


def weight_files(inside: Path, stem: str) -> list[Path]:
    """The same of the folder `inside`, by the stem of its files.

    Raises:
        ModelError: as `component_files`.
    """
    for name, suffix in ((stem, "safetensors"), (_PICKLED.get(stem, stem), "bin")):
        for variant in ("", ".fp16"):
            whole = inside / f"{name}{variant}.{suffix}"
            if whole.is_file():
                return [whole]
            index = inside / f"{name}.{suffix}.index{variant}.json"
            if index.is_file():
                return _shards(index)
    raise ModelError("model_incomplete", path=str(inside.parent), missing=f"{inside.name}/{stem}.safetensors")


def component_shapes(folder: Path, component: str, names: ComponentNames) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a component's tensors by their names in the files; None where the weights are pickled.

    Raises:
        ModelError: as `component_files`, and where a header is damaged.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in component_files(folder, component, names):
        if file_kind(file) == "pickle":
            return None
        shapes |= {name: info.shape for name, info in read_header(file).tensors.items()}
    return shapes


def _shards(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError("model_damaged", path=str(index), where="weight_map")
    names = sorted({str(place) for place in places.values()})
    there = {file.name for file in index.parent.iterdir() if file.is_file()}
    for name in names:
        if name not in there:  # nor is a name that leads to another folder
            missing = f"{index.parent.name}/{ascii(name)[1:-1][:_SHOWN]}"
            raise ModelError("model_incomplete", path=str(index.parents[1]), missing=missing)
    return [index.parent / name for name in names]
