"""What a base model is, told from its headers and small configs alone: no tensor is read, nothing is unpickled.

Imports no torch, so that a wrong file is refused before anything is started or written. A pickled checkpoint cannot be
told without unpickling: it comes back unexamined (`family` ""), and `families.load_family` examines it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, Literal

from lorasmith.errors import ModelError
from lorasmith.families import config_checks, sd15_layout
from lorasmith.families.configs import CLIP_TOKENS, sd15_config
from lorasmith.families.foreign_files import INPUT_CHANNELS, LORA_KEY, Shapes, refuse_foreign, without_unet
from lorasmith.families.headers import file_kind, read_header
from lorasmith.families.small_files import check_tokenizer, read_json
from lorasmith.families.yaml_beside import prediction_beside

Layout = Literal["diffusers", "single_file", "pickle"]
Prediction = Literal["epsilon", "v_prediction"]
Asked = Literal["auto", "epsilon", "v_prediction"]
PredictionSource = Literal["asked", "scheduler_config", "header_key", "yaml", "modelspec", "default"]

CONFIGS_KEY = "lorasmith.configs"
"""Metadata of a single file that describe it: JSON {"unet": …, "vae": …, "text_encoder": …, "scheduler": …,
"tokenizer": {file name: text}}, the last two optional."""

_LAYERS = 12  # of a text encoder whose config does not say
_SHOWN = 120  # letters of a name in a message


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """A base model that can be trained on."""

    path: Path
    layout: Layout
    family: str  # a key of FAMILIES; "" while a pickle is unexamined
    prediction: Prediction
    zero_terminal_snr: bool
    prediction_source: PredictionSource  # what `prediction` was told by; "default": nothing said, taken as epsilon
    resolution: int  # pixels, the model's own
    size_multiple: int  # pixels: what both sides of a picture must be a multiple of
    denoiser_parameters: int | None  # None where only loading tells
    configs: Mapping[str, Any]  # "unet", "vae", "text_encoder", "scheduler"; "tokenizer": texts by file name, or None


def recognize(path: Path, *, asked: Asked = "auto") -> BaseWeights:
    """What lies at `path`, a folder or a file that exists; `asked` is the prediction that the user or the run names.

    Raises:
        ModelError: `model_unknown`, `model_truncated`, `model_damaged`, `model_unreadable`, `model_is_…`,
            `model_other_family`, `model_incomplete`, `model_vocabulary`, `model_configs_needed`, `model_prediction`,
            `model_yaml`.
    """
    if path.is_dir():
        return _recognize_folder(path, asked)
    if file_kind(path) == "pickle":
        return _unexamined(path, asked)
    header = read_header(path)
    shapes = {name: info.shape for name, info in header.tensors.items()}
    return recognize_tensors(path, shapes, header.metadata, layout="single_file", asked=asked)


def recognize_tensors(
    path: Path, shapes: Shapes, metadata: Mapping[str, str], *, layout: Layout, asked: Asked = "auto"
) -> BaseWeights:
    """The same for a single file whose names and shapes are known."""
    refuse_foreign(path, shapes)
    parts = {name: sd15_layout.from_ldm(name, shapes) for name in sd15_layout.COMPONENTS}
    if not parts["unet"]:
        raise without_unet(path, shapes)
    missing = [name for name, found in parts.items() if not found]
    if missing:
        raise ModelError("model_incomplete", path=str(path), missing=", ".join(missing))
    canonical = {name: {ours: shapes[theirs] for ours, theirs in found.items()} for name, found in parts.items()}
    configs = _embedded_configs(path, metadata)
    if configs is None:
        configs = _deduced_configs(path, canonical)
    if asked == "auto":
        scheduler, source = _marked_schedule(path, configs, shapes, metadata)
    else:
        scheduler, source = _asked_schedule(configs, shapes, asked)
    count = sum(prod(shape) for shape in canonical["unet"].values())
    return _described(path, layout, {**configs, "scheduler": scheduler}, source=source, parameters=count)


def check_clip_skip(weights: BaseWeights, clip_skip: int) -> None:
    """Nothing where the text encoder has that many layers.

    Raises:
        ModelError: `model_clip_skip`.
    """
    layers = weights.configs["text_encoder"].get("num_hidden_layers", _LAYERS)
    if clip_skip > layers:
        raise ModelError("model_clip_skip", asked=clip_skip, layers=layers)


# -- single files ----------------------------------------------------------------------------------


def _embedded_configs(path: Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    if CONFIGS_KEY not in metadata:
        return None
    damaged = ModelError("model_damaged", path=str(path), where=CONFIGS_KEY)
    try:
        configs = json.loads(metadata[CONFIGS_KEY])
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(configs, dict) or not all(isinstance(configs.get(one), dict) for one in sd15_layout.COMPONENTS):
        raise damaged
    return {"tokenizer": None, **configs}


def _deduced_configs(path: Path, shapes: Mapping[str, Shapes]) -> dict[str, Any]:
    try:
        configs = sd15_layout.deduce_configs(shapes)
    except sd15_layout.UnusualShapesError as error:
        raise ModelError("model_configs_needed", path=str(path), key=CONFIGS_KEY) from error
    context, width = configs["unet"]["cross_attention_dim"], configs["text_encoder"]["hidden_size"]
    if context != width:
        raise ModelError("model_other_family", path=str(path), found=f"UNet for text of width {context}, not {width}")
    return {**configs, "tokenizer": None}


def _marked_schedule(
    path: Path, configs: Mapping[str, Any], shapes: Shapes, metadata: Mapping[str, str]
) -> tuple[dict[str, Any], PredictionSource]:
    """The scheduler's config and what told the prediction: marker keys, embedded configs, the `.yaml` beside the file,
    then ModelSpec metadata."""
    scheduler = _schedule_of(configs, shapes)
    if "v_pred" in shapes:
        scheduler["prediction_type"] = "v_prediction"
        return scheduler, "header_key"
    if isinstance(configs.get("scheduler"), dict):
        return scheduler, "scheduler_config"
    if beside := prediction_beside(path):
        scheduler["prediction_type"] = beside
        return scheduler, "yaml"
    named = metadata.get("modelspec.prediction_type", "").strip().lower()
    if named:
        scheduler["prediction_type"] = {"v": "v_prediction", "v-prediction": "v_prediction"}.get(named, named)
        return scheduler, "modelspec"
    return scheduler, "default"


def _asked_schedule(
    configs: Mapping[str, Any], shapes: Shapes, asked: Asked
) -> tuple[dict[str, Any], PredictionSource]:
    return {**_schedule_of(configs, shapes), "prediction_type": asked}, "asked"


def _schedule_of(configs: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    embedded = configs.get("scheduler")
    scheduler: dict[str, Any] = dict(embedded) if isinstance(embedded, dict) else sd15_config("scheduler")
    if "ztsnr" in shapes:
        scheduler["rescale_betas_zero_snr"] = True
    return scheduler


def _unexamined(path: Path, asked: Asked) -> BaseWeights:
    configs: dict[str, Any] = {name: sd15_config(name) for name in (*sd15_layout.COMPONENTS, "scheduler")}
    source: PredictionSource = "default"
    if asked != "auto":
        configs["scheduler"], source = _asked_schedule(configs, {}, asked)
    usual = _described(path, "pickle", {**configs, "tokenizer": None}, source=source, parameters=None)
    return replace(usual, family="")


# -- diffusers folders -----------------------------------------------------------------------------

_WEIGHT_NAMES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
_CONFIG_FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


def component_files(folder: Path, component: str) -> list[Path]:
    """The weight files of one component of a diffusers folder, in order: full precision first, then fp16, then pickles.

    Raises:
        ModelError: `model_incomplete`, `model_damaged`.
    """
    stem, inside = _WEIGHT_NAMES[component], folder / component
    pickled = "pytorch_model" if component == "text_encoder" else stem
    for name, suffix in ((stem, "safetensors"), (pickled, "bin")):
        for variant in ("", ".fp16"):
            whole = inside / f"{name}{variant}.{suffix}"
            if whole.is_file():
                return [whole]
            index = inside / f"{name}.{suffix}.index{variant}.json"
            if index.is_file():
                return _shards(folder, index)
    raise ModelError("model_incomplete", path=str(folder), missing=f"{component}/{stem}.safetensors")


def _shards(folder: Path, index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError("model_damaged", path=str(index), where="weight_map")
    names = sorted({str(place) for place in places.values()})
    there = {file.name for file in index.parent.iterdir() if file.is_file()}
    for name in names:
        if name not in there:  # a name that leads elsewhere is not either
            missing = f"{index.parent.name}/{ascii(name)[1:-1][:_SHOWN]}"
            raise ModelError("model_incomplete", path=str(folder), missing=missing)
    return [index.parent / name for name in names]


def _recognize_folder(folder: Path, asked: Asked) -> BaseWeights:
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        if (folder / "unet").is_dir():
            raise ModelError("model_incomplete", path=str(folder), missing="model_index.json")
        raise ModelError("model_unknown", path=str(folder))
    index = read_json(index_file)
    if "transformer" in index or "text_encoder_2" in index:
        raise ModelError("model_other_family", path=str(folder), found=str(index.get("_class_name", "?")))
    wanted = [*_CONFIG_FILES.values(), "tokenizer"]
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        raise ModelError("model_incomplete", path=str(folder), missing=", ".join(missing))
    configs: dict[str, Any] = {name: read_json(folder / file) for name, file in _CONFIG_FILES.items()}
    shapes = {name: _folder_shapes(folder, name) for name in sd15_layout.COMPONENTS}
    _refuse_foreign_folder(folder, configs["unet"], shapes["unet"] or {})
    check_tokenizer(folder / "tokenizer")
    parameters = None if shapes["unet"] is None else sum(prod(shape) for shape in shapes["unet"].values())
    configs["tokenizer"] = None
    source: PredictionSource = "scheduler_config"
    if asked != "auto":
        configs["scheduler"], source = _asked_schedule(configs, {}, asked)
    return _described(folder, "diffusers", configs, source=source, parameters=parameters)


def _folder_shapes(folder: Path, component: str) -> dict[str, tuple[int, ...]] | None:
    """None where the weights are pickled."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in component_files(folder, component):
        if file_kind(file) == "pickle":
            return None
        shapes |= {name: info.shape for name, info in read_header(file).tensors.items()}
    return shapes


def _refuse_foreign_folder(folder: Path, unet: Mapping[str, Any], shapes: Shapes) -> None:
    if any(LORA_KEY.search(name) for name in shapes):
        raise ModelError("model_is_lora", path=str(folder))
    found = ""
    if unet.get("addition_embed_type"):
        found = "SDXL"
    elif unet.get("use_linear_projection"):
        found = "SD 2"
    elif (channels := unet.get("in_channels", 4)) != 4:
        found = INPUT_CHANNELS.get(channels, f"UNet with {channels} input channels")
    if found:
        raise ModelError("model_other_family", path=str(folder), found=found)


# -- both ------------------------------------------------------------------------------------------


def _described(
    path: Path, layout: Layout, configs: Mapping[str, Any], *, source: PredictionSource, parameters: int | None
) -> BaseWeights:
    """Checks the configs as far as training depends on them, and sums them up."""
    unet, scheduler = configs["unet"], configs["scheduler"]
    rows = configs["text_encoder"].get("vocab_size", CLIP_TOKENS)
    if rows != CLIP_TOKENS and layout != "diffusers" and configs["tokenizer"] is None:
        raise ModelError("model_vocabulary", path=str(path), rows=rows, expected=CLIP_TOKENS, key=CONFIGS_KEY)
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError("model_prediction", path=str(path), found=str(prediction))
    schedule = scheduler.get("beta_schedule", "linear")
    if schedule not in ("scaled_linear", "linear") or scheduler.get("trained_betas") is not None:
        raise ModelError("model_prediction", path=str(path), found=f"beta_schedule {schedule}")
    wrong = config_checks.wrong_setting(configs)
    if wrong:
        raise ModelError("model_damaged", path=str(path), where=wrong)
    factor = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    multiple = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    resolution = unet.get("sample_size", 64) * factor
    return BaseWeights(
        path=path,
        layout=layout,
        family="sd15",
        prediction=prediction,
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
        prediction_source=source,
        resolution=resolution,
        size_multiple=multiple,
        denoiser_parameters=parameters,
        configs=configs,
    )


# -- identity --------------------------------------------------------------------------------------


def weights_sha256(weights: BaseWeights) -> str:
    """Identity of the base model: SHA-256 of the file; of a folder, over the SHA-256s of its weights and configs."""
    if weights.layout != "diffusers":
        return _file_sha256(weights.path)
    files = [weights.path / name for name in _CONFIG_FILES.values()]
    for component in sd15_layout.COMPONENTS:
        files += component_files(weights.path, component)
    listed = sorted((file.relative_to(weights.path).as_posix(), _file_sha256(file)) for file in files)
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def component_sha256(weights: BaseWeights, component: str) -> str:
    """Identity of what "vae" or "text_encoder" makes of an input: its tensors, its config, its tokenizer."""
    digest = hashlib.sha256()
    described = {"config": weights.configs[component]}
    if component == "text_encoder":
        described["tokenizer"] = _tokenizer_identity(weights)
    digest.update(json.dumps(described, sort_keys=True).encode())
    if weights.layout == "diffusers":
        for file in component_files(weights.path, component):
            digest.update(_file_sha256(file).encode())
    elif weights.layout == "pickle":
        digest.update(_file_sha256(weights.path).encode())
    else:
        _add_tensors(weights.path, component, digest.update)
    return digest.hexdigest()


def _tokenizer_identity(weights: BaseWeights) -> Any:
    if weights.layout != "diffusers":
        return weights.configs["tokenizer"]
    folder = weights.path / "tokenizer"
    return {file.name: _file_sha256(file) for file in sorted(folder.iterdir()) if file.suffix in (".json", ".txt")}


def _add_tensors(path: Path, component: str, update: Callable[[bytes], None]) -> None:
    tensors = read_header(path).tensors
    with path.open("rb") as file:
        for ours, theirs in sorted(sd15_layout.from_ldm(component, tensors).items()):
            info = tensors[theirs]
            update(f"{ours} {info.dtype} {info.shape}\n".encode())
            file.seek(info.start)
            update(file.read(info.end - info.start))


def _file_sha256(path: Path) -> str:
    """Remembered while the process lives and the file is as it was: several identities ask for the same one."""
    found = path.stat()
    return _hashed(path, found.st_size, found.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001  the rest of the key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
