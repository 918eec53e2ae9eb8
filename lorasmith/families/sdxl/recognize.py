"""Recognizes Stable Diffusion XL. Needs no torch and reads no tensor."""

from __future__ import annotations

from lorasmith.families.foreign_files import SDXL, foreign_family, foreign_folder, is_sdxl_pickle
from lorasmith.families.ldm_recognition import (
    LdmFamily,
    check_folder,
    folder_model,
    single_file_model,
    unexamined_pickle,
)
from lorasmith.families.sdxl.layout import NAMES, deduce_configs, usual_config
from lorasmith.families.weights import BaseWeights, ModelFiles

_FAMILY = LdmFamily("sdxl", NAMES, usual_config, deduce_configs, least_step=64)  # as sd-scripts cuts by default


def recognize(files: ModelFiles) -> BaseWeights | None:
    """The model where it is Stable Diffusion XL, else None. A pickle whose tensors are not known yet has no name yet.

    Raises:
        ModelError: the model is of this family, but incomplete, damaged or of a form that cannot be trained.
    """
    if files.layout == "diffusers":
        if foreign_folder(files) != SDXL:
            return None
        check_folder(files, _FAMILY)
        return folder_model(files, _FAMILY)
    if not files.is_examined:
        return unexamined_pickle(files, _FAMILY) if is_sdxl_pickle(files.path) else None
    return single_file_model(files, _FAMILY) if foreign_family(files.shapes) == SDXL else None
