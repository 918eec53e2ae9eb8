"""The settings of ai-toolkit that are about models of flow matching."""

from __future__ import annotations

from lorasmith.other_trainers.imported import Imported, Source, one_of

_TWO_LISTS = r"^denoiser\.(single_)?transformer_blocks\."
ARCHES = {
    "flux": _TWO_LISTS,
    "flux2_klein_4b": _TWO_LISTS,
    "flux2_klein_9b": _TWO_LISTS,
    "zimage": r"^denoiser\.layers\.",
    "krea2": r"^denoiser\.(transformer_blocks|text_fusion\.(layerwise|refiner)_blocks)\.",
    "anima": r"^denoiser\.transformer_blocks\.",
}
"""Architecture -> the layers that it trains, all of the blocks."""
SHIFTS: dict[str, float | None] = {"flux": None, "krea2": None, "anima": 3.0, "zimage": 3.0}
"""Architecture -> the shift of `timestep_type: shift`; None: by resolution, as here unless another is given."""
CODECS = {"qfloat8": "fp8", "float8": "fp8", "qint8": "int8", "int8": "int8"}
SIGMOID, LINEAR, SHIFTED = "sigmoid", "linear", ("shift", "flux_shift")
LAST_STEP = 999


def model(source: Source, found: Imported, arch: str) -> None:
    """The files besides the denoiser, the form in which weights are kept, and the layers."""
    if source.read("te_name_or_path"):
        found.values["text_encoder"] = [source.read("te_name_or_path")]
    found.take(source, "assistant_lora_path", "training_adapter", str)
    extras, name = source.read("extras_name_or_path"), source.read("name_or_path")
    if extras and extras != name:
        found.leave(source.full("extras_name_or_path"), extras)
    quantizes = bool(source.read("quantize", False))
    for switch, kind, key in (
        ("quantize", "qtype", "base_precision"),
        ("quantize_te", "qtype_te", "text_encoder_precision"),
    ):
        source.read(kind)
        if source.read(switch, quantizes):
            found.values[key] = one_of(CODECS)(source.read(kind, "qfloat8"))
            if found.values[key] is None:
                found.values.pop(key)
                found.leave(source.full(kind), source.read(kind), "value")
    if source.read("layer_offloading", False):
        found.values["base_offload"] = float(source.read("layer_offloading_transformer_percent", 1.0))
    source.read("layer_offloading_transformer_percent"), source.read("layer_offloading_text_encoder_percent")
    found.values["targets"] = ARCHES[arch]


def training(train: Source, found: Imported, arch: str) -> None:
    """The noise levels. Limits of them count from the noise there, and are left out."""
    kind = str(train.read("timestep_type", SIGMOID))
    if train.read("linear_timesteps", False) or train.read("linear_timesteps2", False):
        found.leave("train.linear_timesteps", True)  # they weight the loss too
        kind = LINEAR
    if kind == SIGMOID:
        found.values |= {"timestep_density": "logit-normal", "timestep_shift": 1.0}
    elif kind == LINEAR:
        found.values |= {"timestep_density": "uniform", "timestep_shift": 1.0}
    elif kind in SHIFTED and arch in SHIFTS:
        found.values["timestep_density"] = "uniform"
        if (shift := SHIFTS[arch]) is not None:
            found.values["timestep_shift"] = shift
    else:
        found.leave("train.timestep_type", kind, "value")
    limits = {"min_timestep": ("min_denoising_steps", 0), "max_timestep": ("max_denoising_steps", LAST_STEP)}
    for key, (name, usual) in limits.items():
        value = found.values.pop(key, usual)
        if value not in (usual, usual + 1):
            found.leave(f"train.{name}", value)
    for key in ("min_snr_gamma", "train_text_encoder", "text_encoder_lr"):
        if key in found.values:
            found.leave(f"train.{key}", found.values.pop(key))
