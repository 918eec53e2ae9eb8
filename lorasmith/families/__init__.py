"""The model families, by name. A literal table: listing the names loads nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from lorasmith.families.base import ModelFamily
    from lorasmith.families.recognize import BaseWeights
    from lorasmith.metrics.clip import ImageEncoder

FAMILIES = {
    "sd15": "lorasmith.families.sd15:StableDiffusion15",
}


IMAGE_ENCODERS = {
    "clip": "lorasmith.families.image_encoders:load_clip",
}


def load_family(weights: BaseWeights) -> ModelFamily:
    """The family of these weights; imports torch, loads no weights yet, except that a pickle is examined.

    Raises:
        ModelError: a pickle that is refused, or is no model that can be trained on.
    """
    if not weights.family:
        weights = import_module("lorasmith.families.stored_tensors").examine_pickle(weights)
    module, _, name = FAMILIES[weights.family].partition(":")
    family: ModelFamily = getattr(import_module(module), name)(weights)
    return family


def image_encoder(kind: str) -> Callable[[str], ImageEncoder]:
    """What loads a model of that kind from a folder; imports torch, loads no weights yet.

    The loader raises ModelError where there is no such model.
    """
    module, _, name = IMAGE_ENCODERS[kind].partition(":")
    load: Callable[[str], ImageEncoder] = getattr(import_module(module), name)
    return load
