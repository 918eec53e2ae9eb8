"""Models whose LoRA files have layers of the same names, distinguished by sizes of layers and numbers of blocks.

Values that a family states of itself and of families that are not trained here. Needs no torch and reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Published:
    """Sizes of a published model."""

    family: str  # as `lora_files.names.FAMILY_NAMES` has it
    width: int  # the inputs of the layers in its blocks
    depths: Mapping[str, int] = field(default_factory=dict)  # blocks by their list, in diffusers' names


@dataclass(frozen=True, slots=True)
class Relatives:
    """Facts that distinguish a family's LoRA files from those of others with the same names."""

    published: tuple[Published, ...] = ()  # of the family itself, and of its relatives
    alike: str = ""
    """A pattern of paths of layers that other families have too: the family's have proportions of their own."""
    namesake: str = ""  # a family that has all of its layers: metadata or other layers show that


NO_RELATIVES = Relatives()
