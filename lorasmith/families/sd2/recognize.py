"""Recognizes Stable Diffusion 2.x. Needs no torch, and reads no tensor but one of some hundred numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import fsum, sqrt

from lorasmith.families.foreign_files import SD2, foreign_family, foreign_folder
from lorasmith.families.ldm_names import unet_names
from lorasmith.families.ldm_recognition import (
    LdmFamily,
    check_folder,
    folder_model,
    single_file_model,
)
from lorasmith.families.sd2.layout import NAMES, deduce_configs, usual_config
from lorasmith.families.weights import CONFIGS_KEY, BaseWeights, ModelFiles, Prediction

_FAMILY = LdmFamily("sd2", NAMES, usual_config, deduce_configs)

_LAST_BIAS = ".transformer_blocks.0.norm1.bias"  # of the UNet's last attention
_V_DEVIATION = 0.09  # of its numbers in models with v-prediction, from which on ComfyUI takes a model for one
_V_LATENT_SIDE = 96  # the published models with v-prediction are for 768 pixels, the others for 512


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Stable Diffusion 2.x, else None.

    A single file does not hold its prediction. Where no mark names it (a key, a `.yaml`, ModelSpec metadata), the
    weights decide as they do in ComfyUI; where no config names the resolution, the prediction does.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if files.layout == "diffusers":
        if foreign_folder(files) != SD2:
            return None
        check_folder(files, _FAMILY)
        return folder_model(files, _FAMILY)
    if not files.is_examined or foreign_family(files.shapes) != SD2:
        return None
    model = single_file_model(files, _FAMILY)
    if model.noise.source == "default":
        found = _prediction_by_weights(files)
        scheduler = {**model.configs["scheduler"], "prediction_type": found}
        noise = replace(model.noise, prediction=found, source="weights")
        model = replace(model, noise=noise, configs={**model.configs, "scheduler": scheduler})
    if CONFIGS_KEY in files.metadata or model.noise.prediction != "v_prediction":
        return model
    unet = {**model.configs["unet"], "sample_size": _V_LATENT_SIDE}
    factor = model.resolution // model.configs["unet"]["sample_size"]
    return replace(model, resolution=_V_LATENT_SIDE * factor, configs={**model.configs, "unet": unet})


def _prediction_by_weights(files: ModelFiles) -> Prediction:
    """By the deviation of the bias that the last attention of the UNet adds: large where v is predicted."""
    ours = unet_names(files.shapes)
    last = max((name for name in ours if name.startswith("up_blocks.") and name.endswith(_LAST_BIAS)), default="")
    numbers = files.numbers(ours[last]) if last else ()
    return "v_prediction" if _deviation(numbers) > _V_DEVIATION else "epsilon"


def _deviation(numbers: Sequence[float]) -> float:
    if not numbers:
        return 0.0
    mean = fsum(numbers) / len(numbers)
    return sqrt(fsum((number - mean) ** 2 for number in numbers) / len(numbers))
