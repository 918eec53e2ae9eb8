"""The table of model families. Listing it loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lorasmith.families.relatives import NO_RELATIVES, Relatives
from lorasmith.families.weights import DEFAULT_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

    from lorasmith.families.base import ModelFamily
    from lorasmith.families.footprint import Footprint
    from lorasmith.families.weights import BaseWeights, ComponentNames, ModelFiles, TextSettings
    from lorasmith.metrics.clip import ImageEncoder


@dataclass(frozen=True, slots=True)
class FamilyEntry:
    """A row of the table: the parts of a family, each as "module:attribute"."""

    family: str  # a class that satisfies ModelFamily
    recognizer: str  # torch-free: ModelFiles -> BaseWeights, or None where the model is of another family
    layer_names: str  # torch-free: () -> the text of the table of names that `exporting.name_table` parses
    pipelines: tuple[str, ...]  # in model_index.json of its diffusers folders
    in_webui: bool = True  # whether the Stable Diffusion WebUI reads its LoRAs; ComfyUI reads those of all families
    native_names: str = ""  # torch-free: () -> the text that `exporting.formats.parse_native` parses, if names differ
    text_names: str = ""  # torch-free: () -> as layer_names, of text encoders that are in files and never trained here
    relatives: str = ""  # torch-free: the Relatives, where LoRA files of other families have the same names
    flow_names: str = ""  # torch-free: the ComponentNames of a family of flow matching
    footprint: str = "lorasmith.families.unet_footprint:footprint"  # torch-free: (configs, parameters) -> Footprint


FAMILIES = {  # recognizers are asked in this order
    "sd15": FamilyEntry(
        family="lorasmith.families.sd15.family:StableDiffusion15",
        recognizer="lorasmith.families.sd15.recognize:recognize",
        layer_names="lorasmith.families.sd15.layout:layer_names",
        pipelines=("StableDiffusionPipeline",),
    ),
    "sd2": FamilyEntry(
        family="lorasmith.families.sd2.family:StableDiffusion2",
        recognizer="lorasmith.families.sd2.recognize:recognize",
        layer_names="lorasmith.families.sd2.layout:layer_names",
        pipelines=("StableDiffusionPipeline",),
    ),
    "sdxl": FamilyEntry(
        family="lorasmith.families.sdxl.family:StableDiffusionXL",
        recognizer="lorasmith.families.sdxl.recognize:recognize",
        layer_names="lorasmith.families.sdxl.layout:layer_names",
        pipelines=("StableDiffusionXLPipeline",),
    ),
    "krea2": FamilyEntry(
        family="lorasmith.families.krea2.family:Krea2",
        recognizer="lorasmith.families.krea2.recognize:recognize",
        layer_names="lorasmith.families.krea2.layout:layer_names",
        pipelines=("Krea2Pipeline",),
        in_webui=False,
        relatives="lorasmith.families.krea2.layout:RELATIVES",
        flow_names="lorasmith.families.krea2.layout:NAMES",
        footprint="lorasmith.families.krea2.footprint:footprint",
    ),
    "qwen_image21": FamilyEntry(
        family="lorasmith.families.qwen_image21.family:QwenImage21",
        recognizer="lorasmith.families.qwen_image21.recognize:recognize",
        layer_names="lorasmith.families.qwen_image21.layout:layer_names",
        pipelines=("QwenImage21Pipeline",),
        in_webui=False,
        native_names="lorasmith.families.qwen_image21.layout:native_names",
        relatives="lorasmith.families.qwen_image21.layout:RELATIVES",
        flow_names="lorasmith.families.qwen_image21.layout:NAMES",
        footprint="lorasmith.families.qwen_image21.footprint:footprint",
    ),
    "anima": FamilyEntry(
        family="lorasmith.families.anima.family:Anima",
        recognizer="lorasmith.families.anima.recognize:recognize",
        layer_names="lorasmith.families.anima.layout:layer_names",
        pipelines=("AnimaModularPipeline",),
        in_webui=False,
        relatives="lorasmith.families.anima.layout:RELATIVES",
        flow_names="lorasmith.families.anima.layout:NAMES",
        footprint="lorasmith.families.anima.footprint:footprint",
    ),
    "zimage": FamilyEntry(
        family="lorasmith.families.zimage.family:ZImage",
        recognizer="lorasmith.families.zimage.recognize:recognize",
        layer_names="lorasmith.families.zimage.layout:layer_names",
        native_names="lorasmith.families.zimage.layout:native_names",
        pipelines=("ZImagePipeline",),
        in_webui=False,
        relatives="lorasmith.families.zimage.layout:RELATIVES",
        flow_names="lorasmith.families.zimage.layout:NAMES",
        footprint="lorasmith.families.zimage.footprint:footprint",
    ),
    "flux2_klein": FamilyEntry(
        family="lorasmith.families.flux2_klein.family:Flux2Klein",
        recognizer="lorasmith.families.flux2_klein.recognize:recognize",
        layer_names="lorasmith.families.flux2_klein.layout:layer_names",
        pipelines=("Flux2KleinPipeline",),
        in_webui=False,
        relatives="lorasmith.families.flux2_klein.layout:RELATIVES",
        flow_names="lorasmith.families.flux2_klein.layout:NAMES",
        footprint="lorasmith.families.flux2_klein.footprint:footprint",
    ),
    "flux1": FamilyEntry(
        family="lorasmith.families.flux1.family:Flux1",
        recognizer="lorasmith.families.flux1.recognize:recognize",
        layer_names="lorasmith.families.flux1.layout:layer_names",
        native_names="lorasmith.families.flux1.layout:native_names",
        text_names="lorasmith.families.flux1.layout:text_names",
        pipelines=("FluxPipeline",),
        in_webui=False,
        relatives="lorasmith.families.flux1.layout:RELATIVES",
        flow_names="lorasmith.families.flux1.layout:NAMES",
        footprint="lorasmith.families.flux1.footprint:footprint",
    ),
}

IMAGE_ENCODERS = {
    "clip": "lorasmith.families.image_encoders:load_clip",
}


def load_family(weights: BaseWeights, text: TextSettings = DEFAULT_TEXT) -> ModelFamily:
    """The family of these weights, for captions read as `text` says. Imports torch; no weights are loaded yet, except
    that a pickle is examined.

    Raises:
        ModelError: a pickle that is refused, or is no model that can be trained on; `model_clip_skip`.
    """
    if not weights.family:
        weights = import_module("lorasmith.families.stored_tensors").examine_pickle(weights)
    family: ModelFamily = _found(FAMILIES[weights.family].family)(weights, text)
    return family


def recognizers() -> list[Callable[[ModelFiles], BaseWeights | None]]:
    """The recognizers of all families, in the order in which they are asked."""
    return [_found(entry.recognizer) for entry in FAMILIES.values()]


def layer_names(family: str) -> str:
    """The table of a family's layers with their names in exported files: tab-separated lines."""
    text: str = _found(FAMILIES[family].layer_names)()
    return text


def native_names(family: str) -> str:
    """The places of a family's layers in the original model, where its exported files have other names; else ""."""
    place = FAMILIES[family].native_names
    text: str = _found(place)() if place else ""
    return text


def text_names(family: str) -> str:
    """The table of the layers of text encoders that LoRA files for the family may change though they are never trained
    here; else ""."""
    place = FAMILIES[family].text_names
    text: str = _found(place)() if place else ""
    return text


def relatives(family: str) -> Relatives:
    """Facts that distinguish the LoRA files of a family from those of others; none where it is not in FAMILIES."""
    place = FAMILIES[family].relatives if family in FAMILIES else ""
    found: Relatives = _found(place) if place else NO_RELATIVES
    return found


def flow_names(family: str) -> ComponentNames | None:
    """The places of a family's tensors in files; None where it is none of flow matching."""
    place = FAMILIES[family].flow_names
    names: ComponentNames | None = _found(place) if place else None
    return names


def footprint_of(weights: BaseWeights) -> Footprint | None:
    """The memory that the denoiser takes in training; None where that is not known before it is loaded."""
    if not weights.family or weights.denoiser_parameters is None:
        return None
    found: Footprint = _found(FAMILIES[weights.family].footprint)(weights.configs, weights.denoiser_parameters)
    return found


def image_encoder(kind: str) -> Callable[[str], ImageEncoder]:
    """The function that loads an image encoder of that kind from a folder. Imports torch; loads no weights yet.

    That function raises ModelError where the folder holds no such model.
    """
    load: Callable[[str], ImageEncoder] = _found(IMAGE_ENCODERS[kind])
    return load


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
