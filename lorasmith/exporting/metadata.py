"""Builds the metadata of a LoRA file: `ss_*` as sd-scripts writes them, `modelspec.*` 1.0.1, and the `sshs_*` hashes.

All values are strings, as readers expect nothing else. Knows numbers and names only: no config, no model, no file.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from lorasmith.exporting.caption_metadata import CaptionFacts, caption_metadata
from lorasmith.exporting.objective_metadata import ObjectiveFacts, objective_metadata, timestep_range
from lorasmith.exporting.picture_metadata import PictureFacts, picture_metadata
from lorasmith.exporting.sd_scripts_metadata import DescriptionFacts, described

_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFacts:
    """Everything that the metadata of an export are made of."""

    # the run and its progress
    run_id: str  # of the run, the same after every interruption
    name: str  # of the file, without step and suffix
    step: int  # completed optimizer updates
    epoch: int
    started_at: float  # seconds since 1970
    finished_at: float
    # the base model
    base_model_name: str  # file or folder name, without its path
    base_model_sha256: str
    vae_name: str  # of a VAE in place of the base model's own; "": none
    vae_sha256: str
    vae_short_hash: str  # the first 8 digits of the SHA-256 of 64 KiB from the first MiB on
    base_model_version: str  # "sd_v1", as FamilyTraits has it
    architecture: str  # "stable-diffusion-v1", with or without "/lora"
    implementation: str
    prediction: Literal["epsilon", "v_prediction", "flow"]
    zero_terminal_snr: bool
    clip_skip: int
    # the adapter
    network_module: str  # "networks.lora"
    network_args: Mapping[str, str]
    rank: int
    alpha: float
    dropout: float
    lr: float
    denoiser_lr: float | None  # None: not trained
    text_encoder_lr: tuple[float, ...]  # of each text encoder that is trained, in order
    # how it was trained
    optimizer: str  # "torch.optim.adamw.AdamW"
    optimizer_options: Mapping[str, object]
    lr_schedule: str
    lr_warmup_steps: int
    target_steps: int  # of the whole run
    epochs: int  # that the target comes to
    micro_batches_per_epoch: int
    accumulation_steps: int
    batch_size: int  # examples in a micro-batch
    gradient_checkpointing: bool
    fp8_base: bool
    max_grad_norm: float
    max_change_norm: float  # of each layer; 0: not limited
    precision: str  # fp32, bf16 or fp16: data type of the frozen weights and the arithmetic
    seed: int
    objective: ObjectiveFacts
    captions: CaptionFacts
    # the pictures
    pictures: PictureFacts
    trigger_word: str  # "": none
    description: DescriptionFacts


# Keys that readers of sd-scripts' files expect, with values that hold for every run of this program.
_FIXED_VALUES = {
    "ss_lowram": "False",
    "ss_full_fp16": "False",
}


def build_metadata(facts: ExportFacts) -> dict[str, str]:
    """All metadata but the hashes, which `with_hashes` adds once the tensors are known."""
    metadata = {
        **_FIXED_VALUES,
        **_run(facts),
        **_base(facts),
        **_training(facts),
        **objective_metadata(facts.objective),
        **caption_metadata(facts.captions),
        **picture_metadata(facts.pictures),
        **_model_spec(facts),
    }
    pictures = sum(folder.pictures for folder in facts.pictures.whole.folders) + facts.pictures.held_out
    return described(metadata, facts.description, seed=facts.seed, pictures=pictures)


def with_hashes(metadata: Mapping[str, str], *, header: bytes, data: bytes | memoryview) -> dict[str, str]:
    """Adds `sshs_model_hash`, `sshs_legacy_hash` and `modelspec.hash_sha256`.

    Args:
        header: all bytes before the data section of a file that has `hashed_metadata` only.
        data: the data section.
    """
    model_hash = hashlib.sha256(data).hexdigest()
    return {
        **metadata,
        "sshs_model_hash": model_hash,
        "sshs_legacy_hash": legacy_hash(header, data),
        "modelspec.hash_sha256": f"0x{model_hash}",
    }


def legacy_hash(header: bytes, data: bytes | memoryview) -> str:
    """The first 8 hex digits of the SHA-256 of the 64 KiB at 1 MiB into header + data, as far as the file reaches."""
    start, stop = _LEGACY_START, _LEGACY_START + _LEGACY_LENGTH
    in_data = data[max(start - len(header), 0) : max(stop - len(header), 0)]
    return hashlib.sha256(header[start:stop] + in_data).hexdigest()[:8]


def hashed_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of the file that the legacy hash is computed of: sd-scripts hashes before it adds the others."""
    return {key: value for key, value in metadata.items() if key.startswith("ss_")}


def count_tags(captions: Iterable[str]) -> dict[str, int]:
    """Counts the captions that hold each tag (the text between commas, in lower case), in order of appearance."""
    counted: Counter[str] = Counter()
    for caption in captions:
        counted.update(tag.strip().lower() for tag in caption.split(",") if tag.strip())
    return dict(counted)


# -- the parts -------------------------------------------------------------------------------------


def _run(facts: ExportFacts) -> dict[str, str]:
    session = int.from_bytes(hashlib.sha256(facts.run_id.encode()).digest()[:4], "big")
    return {
        "ss_session_id": str(session),
        "ss_training_started_at": str(facts.started_at),
        "ss_training_finished_at": str(facts.finished_at),
        "ss_output_name": facts.name,
        "ss_steps": str(facts.step),
        "ss_epoch": str(facts.epoch),
        "ss_training_comment": "None",
    }


def _base(facts: ExportFacts) -> dict[str, str]:
    is_v = facts.prediction == "v_prediction" and facts.base_model_version.startswith("sd_v")  # never of SDXL
    return {
        "ss_v2": str(facts.base_model_version.startswith("sd_v2")),
        "ss_base_model_version": facts.base_model_version + ("_v" if is_v else ""),
        "ss_sd_model_name": facts.base_model_name,
        "ss_new_sd_model_hash": facts.base_model_sha256,
        **_vae(facts),
        "ss_clip_skip": str(facts.clip_skip),
        "ss_zero_terminal_snr": str(facts.zero_terminal_snr),
    }


def _vae(facts: ExportFacts) -> dict[str, str]:
    if not facts.vae_name:
        return {}
    hashes = {"ss_vae_hash": facts.vae_short_hash, "ss_new_vae_hash": facts.vae_sha256}
    return {"ss_vae_name": facts.vae_name, **hashes}


def _training(facts: ExportFacts) -> dict[str, str]:
    options = ",".join(f"{name}={value}" for name, value in facts.optimizer_options.items())
    return {
        "ss_network_module": facts.network_module,
        "ss_network_dim": str(facts.rank),
        "ss_network_alpha": str(float(facts.alpha)),
        "ss_network_dropout": str(facts.dropout),
        "ss_network_args": _json(dict(facts.network_args)),
        "ss_learning_rate": str(facts.lr),
        "ss_unet_lr": str(facts.denoiser_lr),
        "ss_text_encoder_lr": _rates(facts.text_encoder_lr),
        "ss_optimizer": f"{facts.optimizer}({options})" if options else facts.optimizer,
        "ss_lr_scheduler": facts.lr_schedule,
        "ss_lr_warmup_steps": str(facts.lr_warmup_steps),
        "ss_max_train_steps": str(facts.target_steps),
        "ss_num_epochs": str(facts.epochs),
        "ss_num_batches_per_epoch": str(facts.micro_batches_per_epoch),
        "ss_gradient_accumulation_steps": str(facts.accumulation_steps),
        "ss_fp8_base": str(facts.fp8_base),
        "ss_gradient_checkpointing": str(facts.gradient_checkpointing),
        "ss_max_grad_norm": str(facts.max_grad_norm),
        "ss_scale_weight_norms": str(facts.max_change_norm or None),
        "ss_mixed_precision": "no" if facts.precision == "fp32" else facts.precision,
        "ss_seed": str(facts.seed),
        "ss_batch_size_per_device": str(facts.batch_size),
        "ss_total_batch_size": str(facts.batch_size),
    }


def _model_spec(facts: ExportFacts) -> dict[str, str]:
    """https://github.com/Stability-AI/ModelSpec, version 1.0.1."""
    spec = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": facts.architecture.removesuffix("/lora") + "/lora",
        "modelspec.implementation": facts.implementation,
        "modelspec.title": facts.name,
        "modelspec.resolution": "x".join(map(str, facts.pictures.resolution)),
        "modelspec.date": datetime.fromtimestamp(facts.finished_at, UTC).isoformat(timespec="seconds"),
        "modelspec.encoder_layer": str(facts.clip_skip),
    }
    if facts.prediction != "flow":  # for which ModelSpec has no word
        spec["modelspec.prediction_type"] = "v" if facts.prediction == "v_prediction" else "epsilon"
    spec |= timestep_range(facts.objective)
    return spec | ({"modelspec.trigger_phrase": facts.trigger_word} if facts.trigger_word else {})


def _rates(rates: tuple[float, ...]) -> str:
    """As sd-scripts writes them: a number, or a list where text encoders have rates of their own."""
    return str(list(rates)) if len(set(rates)) > 1 else str(next(iter(rates), None))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
