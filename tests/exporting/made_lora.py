"""LoRAs of random numbers under the names an adapter gives them, with their layers."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lorasmith.adapters.base import AdapterKind, LayerSettings
from lorasmith.adapters.flat import AdaptedLayer
from lorasmith.adapters.lora import UP, Lora
from lorasmith.exporting.name_table import NameTable
from lorasmith.exporting.names import to_file
from lorasmith.seeding import fold
from lorasmith.session.name_tables import name_table
from lorasmith.targets import LayerSpec

BOTH = ("denoiser", "text_encoder")
SD15 = name_table("sd15")
LORA = Lora()


@dataclass(frozen=True)
class MadeLora:
    """What an adapter would give to the exporter."""

    tensors: dict[str, Tensor]
    layers: dict[str, AdaptedLayer]
    kind: AdapterKind = LORA

    @property
    def settings(self) -> dict[str, LayerSettings]:
        return {target: layer.settings for target, layer in self.layers.items()}

    def named(self, table: NameTable = SD15) -> dict[str, Tensor]:
        """Under the names of files."""
        return to_file(self.tensors, self.kind, table, self.settings)


def full_size(*components: str) -> dict[str, LayerSpec]:
    """The layers of the published model that are trained without convolutions."""
    return {
        target: row.layer
        for target, row in SD15.targets.items()
        if row.component in (components or BOTH) and "resnets" not in target and "samplers" not in target
    }


def made_lora(
    specs: Mapping[str, LayerSpec], *, rank: int = 2, alpha: float = 1.0, kind: AdapterKind = LORA
) -> MadeLora:
    """A pair, or what another kind has, of the same size for each layer."""
    settings = LayerSettings(rank, alpha)
    return made_loras({target: AdaptedLayer(spec, settings) for target, spec in specs.items()}, kind)


def made_loras(layers: Mapping[str, AdaptedLayer], kind: AdapterKind = LORA) -> MadeLora:
    """A pair, or what another kind has, for each layer, by target; its numbers depend on the target's name."""
    tensors = {}
    for target, (spec, settings) in layers.items():
        generator = torch.Generator().manual_seed(fold(0, target))
        for suffix, shape in kind.shapes(spec, settings).items():
            tensors[f"{target}.{suffix}"] = torch.randn(shape, generator=generator) * (0.1 if suffix == UP else 1)
    return MadeLora(tensors, dict(layers), kind)
