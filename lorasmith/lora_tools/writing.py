"""Writes the files that the tools make: whole or not at all, checked before they get their names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorasmith.errors import InputError, ModelError
from lorasmith.exporting.metadata import hashed_metadata, with_hashes
from lorasmith.families import FAMILIES
from lorasmith.families.headers import TensorInfo
from lorasmith.families.weights import Prediction
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_files.peft_settings import METADATA_KEY
from lorasmith.lora_files.reader import LoraFile, read_lora
from lorasmith.lora_tools.arrays import Array, header_bytes, to_bytes
from lorasmith.runs.durable import map_write_errors, write_atomically

PRECISIONS = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
_FILE_ORDER = ("F64", "F32", "BF16", "F16")  # as safetensors' own writer lays tensors out
_STATED = {  # what programs need to see which models a file is for: family -> metadata
    "sd15": ("sd_v1", "stable-diffusion-v1/lora", "diffusers"),
    "sd2": ("sd_v2", "stable-diffusion-v2-512/lora", "diffusers"),
    "sdxl": (
        "sdxl_base_v1-0",
        "stable-diffusion-xl-v1-base/lora",
        "https://github.com/Stability-AI/generative-models",
    ),
    "krea2": ("krea2", "krea-2/lora", "https://github.com/krea-ai/krea-2"),
    "qwen_image21": ("qwen_image_21", "qwen-image-2.1/lora", "https://github.com/QwenLM/Qwen-Image"),
    "anima": ("anima", "anima-preview/lora", "https://huggingface.co/circlestone-labs/Anima"),
    "zimage": ("zimage", "z-image/lora", "https://github.com/Tongyi-MAI/Z-Image"),
    "flux2_klein": ("flux2_klein", "flux-2-klein/lora", "https://github.com/black-forest-labs/flux2"),
    "flux1": ("flux1", "flux-1-dev/lora", "https://github.com/black-forest-labs/flux"),
}
"""As the families' traits, which need torch."""
_PAIRS = frozenset({"lora", "locon"})  # kinds that sd-scripts' own module makes


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as a file holds it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: Array, dtype: str) -> Stored:
        return cls(dtype, tuple(array.shape), to_bytes(array, dtype))

    @classmethod
    def unchanged(cls, info: TensorInfo, data: bytes, shape: tuple[int, ...] | None = None) -> Stored:
        return cls(info.dtype, info.shape if shape is None else shape, data)


def refuse_existing(out: Path) -> None:
    """Returns where nothing exists at `out` and its folder does: the tools overwrite nothing.

    Raises:
        InputError: `tool_output_exists`, `tool_no_folder`.
    """
    if os.path.lexists(out):
        raise InputError("tool_output_exists", path=str(out))
    if not out.parent.is_dir():
        raise InputError("tool_no_folder", path=str(out.parent))


def write_lora(out: Path, tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> Path:
    """Writes a LoRA file with fresh hashes; it gets its name once it has been read back.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (_place(item[1].dtype), item[0].encode())))
    entries = {name: (tensor.dtype, tensor.shape) for name, tensor in ordered.items()}
    data = b"".join(tensor.data for tensor in ordered.values())
    first_header = header_bytes(entries, hashed_metadata(metadata))
    content = header_bytes(entries, with_hashes(metadata, header=first_header, data=data)) + data

    def check(temporary: Path) -> None:
        if temporary.read_bytes() != content:
            raise InputError("tool_not_as_written", path=str(out))
        read_lora(temporary)

    with map_write_errors(out.parent):
        return write_atomically(out, content, check=check, is_new=True)


def _place(dtype: str) -> int:
    return _FILE_ORDER.index(dtype) if dtype in _FILE_ORDER else len(_FILE_ORDER)


def metadata_of(
    given: Mapping[str, str], family: str, *, ranks: Counter[int], alphas: Counter[float], kinds: frozenset[str]
) -> dict[str, str]:
    """The metadata of a file made from another: `given`, with rank and alpha as they are now, and with the base model's
    version where it is not stated.

    Args:
        kinds: of the layers as they are now. A file of pairs loses the arguments of the module that trained it, such as
            `algo` and `conv_alpha`, since they need not be those of its tensors any more.
    """
    metadata = {key: value for key, value in given.items() if key not in (METADATA_KEY, "format")}
    if family in _STATED:
        version, architecture, implementation = _STATED[family]
        metadata.setdefault("ss_base_model_version", version)
        metadata.setdefault("ss_v2", str(version.startswith("sd_v2")))
        metadata.setdefault("modelspec.sai_model_spec", "1.0.1")
        metadata.setdefault("modelspec.architecture", architecture)
        metadata.setdefault("modelspec.implementation", implementation)
    if kinds <= _PAIRS:
        metadata["ss_network_module"] = "networks.lora"
        metadata.pop("ss_network_args", None)
    if ranks:
        metadata["ss_network_dim"] = str(ranks.most_common(1)[0][0]) if len(ranks) == 1 else "Dynamic"
    if alphas:
        metadata["ss_network_alpha"] = str(alphas.most_common(1)[0][0]) if len(alphas) == 1 else "Dynamic"
    return metadata


def stated_prediction(family: str, prediction: Prediction) -> dict[str, str]:
    """Metadata that state what the denoiser of a model predicts, as those of a training do: for flow matching
    ModelSpec has no word."""
    if prediction == "flow":
        return {}
    if prediction == "epsilon":
        return {"modelspec.prediction_type": "epsilon"}
    stated = {"modelspec.prediction_type": "v"}
    version = _STATED[family][0]
    if version.startswith("sd_v"):  # names of SDXL's versions have no such form
        stated["ss_base_model_version"] = f"{version}_v"
    return stated | ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"} if family == "sd2" else {})


def known_family(file: LoraFile, family: str = "") -> str:
    """The family of a file whose layers all have a row in the family's table of names.

    Args:
        family: of several that the file may be for; "": the likeliest.

    Raises:
        ModelError: `tool_family`; `tool_layers_unknown`, a key that belongs to no layer of
            it, which a tool would lose.
    """
    family = family or file.family
    if family not in FAMILIES:
        found, names = FAMILY_NAMES.get(family, "?"), [FAMILY_NAMES[name] for name in FAMILIES]
        raise ModelError("tool_family", path=str(file.path), found=found, known=names)
    check_layers(file, family)
    return family


def check_layers(file: LoraFile, family: str) -> None:
    """Returns where every key belongs to a layer of the family.

    Raises:
        ModelError: `tool_layers_unknown`.
    """
    layers = layers_of(family)
    lost = [module.name for module in file.modules if not layers.module_of(module)] + list(file.unknown)
    if lost:
        raise ModelError("tool_layers_unknown", path=str(file.path), count=len(lost), names=lost[:3])
