"""The sections of a run's config. A field is one setting with its unit; each default stands here and nowhere else."""

import math
import re
from typing import Any, Literal

from pydantic import field_validator

from lorasmith.config.fields import Section, option

OPTIMIZER_NAMES = ("adamw", "adamw8bit", "adafactor", "lion", "prodigy")
LR_SHAPES = ("constant", "linear", "cosine", "cosine_with_restarts")
MAX_BATCH = 65_536
MAX_SECONDS = 1_000_000  # eleven days; the system's clocks take no time however long
MAX_NAME_BYTES = 180  # a file name has room for 255, and backups, steps and temporary names add to this one
DEVICES_OF_WINDOWS = r"con|prn|aux|nul|com[0-9]|lpt[0-9]"


class ModelConfig(Section):
    """Which weights are trained on, and in which arithmetic."""

    base_model: str = option("base-model", "", is_path=True)
    """A diffusers folder, a single-file checkpoint, a hub id, or `demo`; "" until somebody names one."""
    family: str = "auto"
    """A key of `families.FAMILIES`, once recognised."""
    base_sha256: str = ""
    """Of the weights, once read."""
    prediction: Literal["auto", "epsilon", "v_prediction"] = option("prediction", "auto")
    """What the denoiser predicts; auto: as the files say, once read."""
    zero_terminal_snr: bool = False
    """Whether the noise schedule ends in pure noise, once read."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option("precision", "auto")
    """Of the frozen weights and the arithmetic; the adapter is float32 always."""
    clip_skip: int = option("clip-skip", 1, ge=1, le=12)
    """Which layer of the text encoder, counted from the end as the WebUI does: 1 is the last."""


class DatasetConfig(Section):
    """Which pictures, and how they are cut."""

    folder: str = option("data", "lora_train_set", is_path=True)
    """The folder of pictures, or of `N_name` folders."""
    resolution: int | None = option("resolution", None, ge=64, le=4096)
    """Pixels: a bucket holds at most resolution x resolution of them. None: the model's own."""
    trigger_word: str = option("trigger-word", "")
    """Put before every caption, with a comma."""
    hold_out: int | Literal["auto"] = option("hold-out", 0)
    """Pictures never trained on; `auto` is 1 in 20 from 20 pictures on."""
    held_out: tuple[str, ...] = ()
    """SHA-256 of the pictures held out, fixed at --new."""
    skip_bad_pictures: bool = option("skip-bad-pictures", False)
    """Go on without pictures and captions that cannot be read."""

    @field_validator("hold_out")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("must not be negative")
        return value


class AdapterConfig(Section):
    """What is trained."""

    kind: str = "lora"
    """A key of `adapters.ADAPTERS`."""
    rank: int = option("rank", 16, ge=1, le=1024)
    """Inner size of each pair of matrices."""
    alpha: float | None = option("alpha", None, gt=0)
    """The change is scaled by alpha / rank. None: the rank."""
    dropout: float = option("dropout", 0.0, ge=0, lt=1)
    """Share of the inputs of each pair that is left out in training."""
    train_text_encoder: bool = option("train-text-encoder", False)
    """Train pairs in the text encoder too."""
    init_from: str = option("init-from", "", is_path=True)
    """A LoRA file to start from; "" starts with no change."""


class OptimizerConfig(Section):
    """How gradients become updates."""

    name: str = option("optimizer", "adamw")
    """One of OPTIMIZER_NAMES; what each is stands in `training.optimizers.OPTIMIZERS`."""
    lr: float = option("lr", 1e-4, ge=0)
    """Learning rate of the denoiser's pairs, before the schedule's factor."""
    text_encoder_lr: float | None = option("text-encoder-lr", None, ge=0)
    """Learning rate of the text encoder's pairs. None: `lr`."""
    options: dict[str, Any] = option("optimizer-option", {})
    """Passed to the optimizer's constructor, checked against its signature."""

    @field_validator("name")
    @classmethod
    def _in_small_letters(cls, value: str) -> str:
        return value.lower()  # other trainers write AdamW8bit

    @field_validator("options")
    @classmethod
    def _kept_by_toml(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not _comes_back_from_toml(value):
            raise ValueError("must be finite numbers, texts, true, false, or lists and tables of them")
        return value


class LrScheduleConfig(Section):
    """How the learning rate moves."""

    shape: str = option("lr-schedule", "constant")
    """One of LR_SHAPES; `cosine_with_restarts:3` has 3 cycles."""
    warmup_steps: int = option("lr-warmup", 0, ge=0)
    """Steps over which the factor rises from 0 to 1."""
    horizon_steps: int | None = option("lr-horizon", None, ge=1)
    """The step at which the shape ends. None: the target of each start."""

    @field_validator("shape")
    @classmethod
    def _known_shape(cls, value: str) -> str:
        value = value.lower()
        if not re.fullmatch(rf"({'|'.join(LR_SHAPES)})|cosine_with_restarts:[1-9][0-9]*", value):
            raise ValueError(f"must be one of {', '.join(LR_SHAPES)}[:CYCLES]")
        return value


class TrainingConfig(Section):
    """The step."""

    batch_size: int = option("batch-size", 1, ge=1, le=MAX_BATCH)
    """Examples in a micro-batch."""
    accumulation_steps: int = option("accumulate", 1, ge=1, le=MAX_BATCH)
    """Micro-batches in a step."""
    max_grad_norm: float = option("max-grad-norm", 1.0, ge=0)
    """Gradients with a larger norm are scaled down to it; 0 never."""
    gradient_checkpointing: bool = option("gradient-checkpointing", False)
    """Compute activations twice instead of keeping them: slower, less memory."""


class MachineConfig(Section):
    """Where it runs. Part of the fingerprint, not of what is learned."""

    device: str = option("device", "auto")
    """`cuda`, `cuda:1`, `mps`, `cpu`; auto takes the first there is."""
    threads: int = 0
    """Of torch on the CPU, in each process; 0 until the first start has counted them."""
    project: str = ".."
    """Where from the run folder the project lies: in run.toml, paths inside it are kept relative to it."""

    @field_validator("device")
    @classmethod
    def _in_small_letters(cls, value: str) -> str:
        return value.lower()


class CadenceConfig(Section):
    """When something is saved. Cannot change what is learned."""

    save_every: int = option("save-every", 100, ge=0)
    """Steps between states, each with an export; 0 never."""
    save_minutes: float = option("save-minutes", 10.0, ge=0, le=MAX_SECONDS)
    """Minutes between states without an export; 0 never."""
    keep_states: int = option("keep-states", 3, ge=1)
    """The newest so many are kept."""


class EvaluationConfig(Section):
    """What is measured beside the training loss. Cannot change what is learned."""

    every: int | None = option("evaluate-every", None, ge=0)
    """Steps between evaluations; 0 never, at the end neither. None: as `save_every`."""
    examples: int = option("evaluate-examples", 4, ge=1, le=64)
    """Pictures that samples are made for, held-out ones first."""
    strength: float = option("evaluate-strength", 0.6, gt=0, le=1)
    """How far each example's own latents are noised before they are drawn anew; 1 is pure generation."""
    sample_prompts: tuple[str, ...] = option("sample-prompt", ())
    """More samples, from these captions alone."""
    clip_model: str = option("clip-model", "", is_path=True)
    """Any CLIP of transformers, a folder or a hub id, for the semantic loss. "": the demo's where that is the base."""


class WatchConfig(Section):
    """When a run counts as stuck. Cannot change what is learned."""

    stall_timeout: float = option("stall-timeout", 300.0, gt=0, le=MAX_SECONDS)
    """Seconds without a sign of life, at least."""
    max_seconds_per_step: float = option("max-seconds-per-step", 30.0, gt=0, le=MAX_SECONDS)
    """Seconds between completed steps that the whole of a start may take on average."""
    no_restart: bool = option("no-restart", False)
    """Never start a crashed or hung worker again."""


class ExportConfig(Section):
    """The file for the WebUI, and what the state folders are called."""

    name: str = option("name", "last", is_path=True, min_length=1, max_length=120)
    """File name without `.safetensors`."""
    save_precision: Literal["fp32", "bf16", "fp16"] = option("save-precision", "fp16")
    """Of the exported tensors; alpha is float32 always."""
    state_prefix: str = "state"
    """First part of the names of state folders: in the language of whoever started the run."""

    @field_validator("name")
    @classmethod
    def _a_file_name(cls, value: str) -> str:
        if re.search(r'[\x00-\x1f<>:"/\\|?*]', value) or value.strip(" .") != value:
            raise ValueError("must be a plain file name")
        if re.fullmatch(DEVICES_OF_WINDOWS, value.partition(".")[0].rstrip(), re.IGNORECASE):
            raise ValueError("must not be the name of a device on Windows")
        if len(value.encode()) > MAX_NAME_BYTES:
            raise ValueError(f"must be at most {MAX_NAME_BYTES} bytes long")
        return value


def _comes_back_from_toml(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _comes_back_from_toml(one) for key, one in value.items())
    if isinstance(value, list):
        return all(_comes_back_from_toml(one) for one in value)
    return isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
