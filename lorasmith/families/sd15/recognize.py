"""Recognizes Stable Diffusion 1.x. Needs no torch and reads no tensor."""

from __future__ import annotations

from lorasmith.families.foreign_files import foreign_family, foreign_unet, is_sdxl_pickle
from lorasmith.families.headers import read_json
from lorasmith.families.ldm_recognition import (
    LdmFamily,
    check_folder,
    folder_model,
    single_file_model,
    unexamined_pickle,
)
from lorasmith.families.sd15.layout import NAMES, deduce_configs, usual_config
from lorasmith.families.weights import BaseWeights, ModelFiles

_FAMILY = LdmFamily("sd15", NAMES, usual_config, deduce_configs)


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Stable Diffusion 1.x, else None. A pickle whose tensors are not known yet is taken for this
    family unless it names SDXL's parts, and stays without a name.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if files.layout == "diffusers":
        if "transformer" in files.index or "text_encoder_2" in files.index:
            return None
        check_folder(files, _FAMILY)
        is_other = bool(foreign_unet(read_json(files.path / NAMES.config_files["unet"])))
        return None if is_other else folder_model(files, _FAMILY)
    if not files.is_examined:
        return None if is_sdxl_pickle(files.path) else unexamined_pickle(files, _FAMILY)
    if foreign_family(files.shapes) or not NAMES.from_single_file("unet", files.shapes):
        return None
    return single_file_model(files, _FAMILY)
