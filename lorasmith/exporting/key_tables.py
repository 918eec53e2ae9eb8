"""The names that ComfyUI, Forge, the WebUI and diffusers all read, frozen as literal files in `tables/`.

Knows no model: names taken from the modules of an installed library change with its version, and a file written with
such names loses its text encoder in ComfyUI and is refused whole by Forge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Kind = Literal["linear", "conv1x1"]
_KINDS: Mapping[str, Kind] = {"linear": "linear", "conv1x1": "conv1x1"}
_TABLES = Path(__file__).with_name("tables")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that a LoRA may change, with its size in the published models; smaller models use the same names."""

    name: str  # the target's name in this project: "denoiser.mid_block.attentions.0.proj_in"
    component: str  # "denoiser", "text_encoder"
    kind: Kind
    inputs: int
    outputs: int

    def weight_shape(self) -> tuple[int, ...]:
        return (self.outputs, self.inputs) if self.kind == "linear" else (self.outputs, self.inputs, 1, 1)


@dataclass(frozen=True, slots=True)
class KeyTable:
    """All names of one family."""

    family: str  # a key of `families.FAMILIES`
    prefixes: Mapping[str, str]  # by component: "lora_unet"
    names: Mapping[str, frozenset[str]]  # by component: the modules' names in a file
    layers: Mapping[str, Layer]  # by module name


@dataclass(frozen=True, slots=True)
class _Files:
    layers: str
    prefixes: Mapping[str, str]  # component -> prefix of its module names
    names: Mapping[str, str]  # component -> file of its module names


_FAMILIES: Mapping[str, _Files] = {
    "sd15": _Files(
        layers="sd15_layers.txt",
        prefixes={"denoiser": "lora_unet", "text_encoder": "lora_te"},
        names={"denoiser": "sd15_unet.txt", "text_encoder": "sd15_text_encoder.txt"},
    ),
}


@cache
def key_table(family: str) -> KeyTable:
    """The table of a family, read once."""
    files = _FAMILIES[family]
    names = {component: frozenset(_lines(file)) for component, file in files.names.items()}
    layers: dict[str, Layer] = {}
    for line in _lines(files.layers):
        name, kind, inputs, outputs = line.split(" ")
        component, path = name.split(".", 1)
        module = module_name(files.prefixes[component], path)
        layers[module] = Layer(name, component, _KINDS[kind], int(inputs), int(outputs))
    assert layers.keys() == frozenset().union(*names.values()), f"the tables of {family} disagree"
    return KeyTable(family, files.prefixes, names, layers)


def module_name(prefix: str, path: str) -> str:
    """("lora_unet", "mid_block.attentions.0.proj_in") -> "lora_unet_mid_block_attentions_0_proj_in"."""
    return f"{prefix}_{path.replace('.', '_')}"


def _lines(file: str) -> list[str]:
    return (_TABLES / file).read_text(encoding="ascii").splitlines()
