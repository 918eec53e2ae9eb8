"""LoRAs of every layer of a small model of flow matching, under the names of each program."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.exporting.formats import parse_native, table_in
from lorasmith.exporting.name_table import NameTable
from lorasmith.exporting.names import to_file
from lorasmith.families import native_names
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_tools.regroup import parts_of
from lorasmith.targets import LayerSpec
from tests.lora_files.written import saved

FORMS = ("", "kohya", "diffusers", "comfyui")  # "": the family's own
RANK, SETTINGS = 2, LayerSettings(2, 3.0)


@dataclass(frozen=True)
class FlowMade:
    """A model as a folder of diffusers, and the file of its denoiser alone in native names."""

    family: str
    folder: Path
    file: Path

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the denoiser by target, as diffusers' class saved them."""
        return weights_of(self.folder)


def weights_of(folder: Path) -> dict[str, Tensor]:
    (file,) = (folder / "transformer").glob("*.safetensors")
    tensors = safetensors.torch.load_file(file)
    return {f"denoiser.{name.removesuffix('.weight')}": tensor for name, tensor in tensors.items()}


def table(family: str, form: str) -> NameTable:
    own = layers_of(family).table
    return table_in(own, form, parse_native(native_names(family))) if form else own


def lora(made: FlowMade, path: Path, form: str = "", *, kind: str = "lora", seed: int = 1) -> dict[str, Tensor]:
    """Writes a file that changes every layer of the model that it can; returns the changes by target."""
    of_kind, generator, known = adapter_kind(kind), torch.Generator().manual_seed(seed), layers_of(made.family)
    tensors: dict[str, Tensor] = {}
    changes: dict[str, Tensor] = {}
    settings: dict[str, LayerSettings] = {}
    for target, row in known.table.targets.items():
        names = [part.target for part in parts_of([row], known.known.pieces)]
        if names[0] not in made.weights:  # of a block that the miniature lacks
            continue
        weight = torch.cat([made.weights[name] for name in names])
        shapes = of_kind.shapes(LayerSpec(*weight.shape), SETTINGS)
        own = {suffix: torch.randn(shape, generator=generator) * 0.3 for suffix, shape in shapes.items()}
        tensors |= {f"{target}.{suffix}": tensor for suffix, tensor in own.items()}
        settings[target] = SETTINGS
        delta = of_kind.delta(weight, own, SETTINGS)
        changes |= dict(zip(names, delta.split([len(made.weights[name]) for name in names]), strict=True))
    named = to_file(tensors, of_kind, table(made.family, form), settings)
    saved({name: tensor.contiguous() for name, tensor in named.items()}, path, {"ss_base_model_version": made.family})
    return changes


def expect(found: Mapping[str, Tensor], before: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> None:
    """Asserts that each weight has its change, and all others are as they were."""
    assert found.keys() == before.keys() and changes
    for name, weight in before.items():
        if name in changes:
            torch.testing.assert_close(found[name], weight + changes[name], msg=name)
        else:
            assert torch.equal(found[name], weight), name


def with_clip(tensors: Mapping[str, Tensor], folder: Path, prefix: str = "lora_te1_") -> dict[str, Tensor]:
    """The tensors of sd-scripts' file with pairs for CLIP beside them, as its training of FLUX.1 writes them."""
    generator, found = torch.Generator().manual_seed(5), dict(tensors)
    for target, weight in clip_weights(folder).items():
        if weight.ndim == 2 and ".layers." in target:
            module = prefix + target.removeprefix("text_encoder.").replace(".", "_")
            found[f"{module}.lora_up.weight"] = torch.randn(len(weight), RANK, generator=generator)
            found[f"{module}.lora_down.weight"] = torch.randn(RANK, weight.shape[1], generator=generator)
            found[f"{module}.alpha"] = torch.tensor(3.0)
    return found


def clip_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder's CLIP by target."""
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in safetensors.torch.load_file(file).items()}
    return {f"text_encoder.text_model.{name.removesuffix('.weight')}": tensor for name, tensor in tensors.items()}


def clip_changes(tensors: Mapping[str, Tensor], prefix: str = "lora_te1_") -> dict[str, Tensor]:
    """What the file of `with_clip` changes, by the name of the layer with "_" for "."."""
    ups = {key.removesuffix(".lora_up.weight"): up for key, up in tensors.items() if key.endswith(".lora_up.weight")}
    return {
        module.removeprefix(prefix): tensors[f"{module}.alpha"] / RANK * up @ tensors[f"{module}.lora_down.weight"]
        for module, up in ups.items()
        if module.startswith(prefix)
    }
