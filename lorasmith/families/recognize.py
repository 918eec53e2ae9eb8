"""Finds out which family a base model belongs to, from headers and small configs alone.

Imports no torch, so that a wrong file is refused before anything is started or written. Reads no tensor but a small one
where nothing else decides, and unpickles nothing: a pickled checkpoint comes back unexamined (`family` ""), and
`families.load_family` examines it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lorasmith.errors import ModelError
from lorasmith.families import recognizers
from lorasmith.families.foreign_families import denoiser_family, is_trained
from lorasmith.families.foreign_files import (
    check_not_quantized,
    header_of_plain_weights,
    refuse_adapters,
    unrecognized,
)
from lorasmith.families.headers import file_kind, read_header, read_json
from lorasmith.families.other_vae import with_vae
from lorasmith.families.small_tensors import read_numbers
from lorasmith.families.weights import (
    AS_STATED,
    INDEXES,
    NO_PARTS,
    BaseWeights,
    ModelFiles,
    NoiseRequest,
    PartFiles,
    RequestedForm,
    Shapes,
)


def recognize(
    path: Path, *, asked: NoiseRequest = AS_STATED, parts: PartFiles = NO_PARTS, form: RequestedForm = "auto"
) -> BaseWeights:
    """The base model at `path`, a folder or a file that exists, with the components of `parts` in place of its own.

    Args:
        form: what the user states of a model whose files do not tell whether it is distilled.

    Raises:
        ModelError: `model_unknown`, `model_truncated`, `model_damaged`, `model_unreadable`, `model_is_…`,
            `model_other_family`, `model_incomplete`, `model_vocabulary`, `model_configs_needed`, `model_prediction`,
            `model_yaml`, `model_quantized`; as `find_parts` of `split_files` and `with_vae`; `text_encoder_fixed`.
    """
    if path.is_dir():
        weights = _recognized(_folder(path, asked, parts, form))
    elif file_kind(path) == "pickle":
        weights = _recognized(ModelFiles(path, "pickle", asked, is_examined=False, parts=parts))
    else:
        header = read_header(path)
        shapes = {name: info.shape for name, info in header.tensors.items()}
        numbers = partial(read_numbers, path, header.tensors)
        files = ModelFiles(path, "single_file", asked, shapes, header.metadata, numbers=numbers, parts=parts, form=form)
        check_not_quantized(path, shapes)
        weights = _recognized(files)
    if form == "base":
        weights = replace(weights, assumed="")
    if form == "distilled" and weights.assumed:
        raise ModelError("model_turbo", path=str(path), base=weights.assumed)
    if parts.text_encoders and not weights.replaced.keys() & weights.names.tokenizers.keys():
        raise ModelError("text_encoder_fixed", path=str(parts.text_encoders[0]))
    return with_vae(weights, parts.vae) if parts.vae and "vae" not in weights.replaced else weights


def is_of_a_family(path: Path) -> bool:
    """Whether the header of a file is that of a base model, or of a denoiser alone, of a family that is trained here.
    Parts in other files are not searched for; False also for pickles, whose denoisers are not read."""
    try:
        if file_kind(path) == "pickle":
            return False
        header = header_of_plain_weights(path)
        named = denoiser_family({name: info.shape for name, info in header.tensors.items()})
        return is_trained(named) if named else recognize(path).family != ""
    except ModelError:
        return False


def recognize_pickle(
    path: Path, shapes: Shapes, numbers: Callable[[str], Sequence[float]], *, asked: NoiseRequest = AS_STATED
) -> BaseWeights:
    """The base model of a pickle that was loaded, by the names and shapes of its tensors.

    Raises:
        ModelError: as `recognize`.
    """
    return _recognized(ModelFiles(path, "pickle", asked, shapes, numbers=numbers))


def _recognized(files: ModelFiles) -> BaseWeights:
    refuse_adapters(files)
    for recognizer in recognizers():
        weights = recognizer(files)
        if weights is not None:
            return weights
    raise unrecognized(files)


def _folder(folder: Path, asked: NoiseRequest, parts: PartFiles, form: RequestedForm) -> ModelFiles:
    index = next((folder / name for name in INDEXES if (folder / name).is_file()), None)
    if index is None:
        if (folder / "unet").is_dir():
            raise ModelError("model_incomplete", path=str(folder), missing=INDEXES[0])
        raise ModelError("model_unknown", path=str(folder))
    return ModelFiles(folder, "diffusers", asked, index=read_json(index), parts=parts, form=form)
