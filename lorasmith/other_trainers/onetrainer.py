"""A configuration of OneTrainer: JSON of the present form or an older form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lorasmith.errors import ConfigError
from lorasmith.other_trainers.imported import OFF, Imported, Source, one_of, used, whole, without_effect
from lorasmith.other_trainers.onetrainer_flow import MODELS as FLOW_MODELS
from lorasmith.other_trainers.onetrainer_flow import flow_layers, flow_levels, flow_parts
from lorasmith.other_trainers.optimizers import optimizer_named

TRAINER = "OneTrainer"
MARKS = frozenset({"training_method", "model_type"})
MODELS = (
    *("STABLE_DIFFUSION_15", "STABLE_DIFFUSION_20", "STABLE_DIFFUSION_20_BASE", "STABLE_DIFFUSION_21"),
    *("STABLE_DIFFUSION_21_BASE", "STABLE_DIFFUSION_XL_10_BASE"),
)
XL = "STABLE_DIFFUSION_XL_10_BASE"
KINDS = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr"}
TYPES = {"FLOAT_32": "fp32", "TFLOAT_32": "fp32", "FLOAT_16": "fp16", "BFLOAT_16": "bf16"}
SHAPES = {
    "CONSTANT": "constant",
    "LINEAR": "linear",
    "COSINE": "cosine",
    "COSINE_WITH_RESTARTS": "cosine_with_restarts",
    "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
}
TARGETS = {"full": "full", "attn-mlp": "attn-mlp", "attn-only": "attn-only", "": "attn-mlp", "attentions": "attn-mlp"}
ALL_TIMESTEPS = 1000
ALPHA = 1.0  # of a preset that names none

Table = Mapping[str, Any]
ReadList = Callable[[str], list[Any] | None]  # name of another file -> its list, None where it is not found


def is_onetrainer(table: Table) -> bool:
    return table.keys() >= MARKS


def from_onetrainer(table: Table, read_list: ReadList) -> Imported:
    """The settings of a configuration; pictures and prompts may be in files of their own.

    Raises:
        ConfigError: `import_no_lora`, `import_other_model`.
    """
    source, found = Source(table), Imported(TRAINER)
    method, model = source.read("training_method"), source.read("model_type")
    if method != "LORA":
        raise ConfigError("import_no_lora", method=str(method))
    if model not in (*MODELS, *FLOW_MODELS):
        raise ConfigError("import_other_model", model=str(model))
    is_flow = model in FLOW_MODELS
    _model(source, found)
    _adapter(source, found)
    _learning(source, found)
    _loss(source, found)
    if is_flow:
        flow_layers(source, found)
        flow_parts(source, found)
        flow_levels(source, found, model)
    else:
        _layers(source, found)
        _parts(source, found, is_xl=model == XL)
    _saving(source, found)
    _concepts(source, found, read_list)
    _samples(source, found, read_list)
    found.leave_rest(source, without_effect("onetrainer"))
    return found


def _model(source: Source, found: Imported) -> None:
    found.take(source, "base_model_name", "base_model")
    found.take(source.part("vae"), "model_name", "vae", lambda name: name or "")
    if source.read("force_v_prediction"):
        found.values["prediction"] = "v_prediction"
    if source.read("force_epsilon_prediction"):
        found.values["prediction"] = "epsilon"
    if source.read("rescale_noise_scheduler_to_zero_terminal_snr"):
        found.values["zero_terminal_snr"] = "on"
    found.take(source, "train_dtype", "precision", one_of(TYPES))
    found.take(source, "output_dtype", "save_precision", one_of(TYPES))
    found.take(source, "resolution", "resolution", whole)
    found.take(source, "aspect_ratio_bucketing", "enable_bucket", bool)
    destination = str(source.read("output_model_destination") or "").replace("\\", "/")
    if destination:
        found.values["name"] = destination.rpartition("/")[2].removesuffix(".safetensors")


def _adapter(source: Source, found: Imported) -> None:
    found.take(source, "peft_type", "adapter", one_of(KINDS))
    if source.read("lora_decompose"):
        found.values["adapter"] = "dora"
    found.take(source, "lora_rank", "rank", whole)
    found.values["alpha"] = float(source.read("lora_alpha", ALPHA))
    found.take(source, "dropout_probability", "dropout", float)
    found.take(source, "lora_model_name", "init_from", str)
    if found.values.get("adapter") == "lokr":
        found.take(source, "lokr_dim", "rank", whole)
        found.take(source, "lokr_decompose_both", "lokr_decompose_both", bool)
        found.take(source, "lokr_decompose_factor", "lokr_factor", whole)
        found.take(source, "lokr_full_matrix", "lokr_full_matrix", bool)
    for name in ("lokr_decompose_both", "lokr_decompose_factor", "lokr_full_matrix"):
        source.read(name)


def _layers(source: Source, found: Imported) -> None:
    layers, preset = source.read("layer_filter"), source.read("layer_filter_preset", "attn-mlp")
    if layers and preset == "custom":
        found.leave("layer_filter", layers)
    else:
        found.values["targets"] = TARGETS.get(preset, "attn-mlp")
        if preset not in TARGETS:
            found.leave("layer_filter_preset", preset)


def _learning(source: Source, found: Imported) -> None:
    found.take(source, "epochs", "epochs", whole)
    found.take(source, "batch_size", "batch_size", whole)
    found.take(source, "gradient_accumulation_steps", "accumulate", whole)
    found.take(source, "learning_rate", "lr", float)
    found.take(source, "clip_grad_norm", "max_grad_norm", float)
    shape = one_of(SHAPES)(source.read("learning_rate_scheduler", "CONSTANT"))
    if shape is None:
        found.leave("learning_rate_scheduler", source.read("learning_rate_scheduler"), "value")
    elif shape == "cosine_with_restarts":
        found.values["lr_schedule"] = f"{shape}:{max(1, whole(source.read('learning_rate_cycles', 1)) or 1)}"
    else:
        found.values["lr_schedule"] = shape
    warmup = source.read("learning_rate_warmup_steps", 0)
    if warmup > 1:
        found.values["lr_warmup"] = int(warmup)
    elif warmup:
        found.leave("learning_rate_warmup_steps", warmup, "share_of_steps")
    _optimizer(source, found)
    if source.read("ema", "OFF") not in OFF:
        found.values["ema_decay"] = source.read("ema_decay", 0.999)


def _optimizer(source: Source, found: Imported) -> None:
    """Newer files have a table with the values of all optimizers, in which None stands for a default."""
    given = source.read("optimizer", "ADAMW")
    table = Source(given if isinstance(given, dict) else {"optimizer": given}, "optimizer")
    name = optimizer_named(table.read("optimizer"))
    if name is None:
        found.leave("optimizer", table.read("optimizer"), "value")
        return
    found.values["optimizer"] = name
    chosen = {"weight_decay": table.read("weight_decay", source.read("weight_decay")), "eps": table.read("eps")}
    betas = [table.read("beta1"), table.read("beta2")]
    if None not in betas:
        chosen["betas"] = betas
    chosen = {key: value for key, value in chosen.items() if value is not None}
    if chosen:
        found.values["optimizer_option"] = chosen
    if name.endswith("adafactor"):
        switches = ("relative_step", "scale_parameter", "warmup_init")
        chosen.pop("eps", None)
        found.values["optimizer_option"] = {**chosen, **{key: bool(table.read(key, False)) for key in switches}}
    found.leave_rest(table, without_effect("onetrainer_optimizers"))


def _parts(source: Source, found: Imported, *, is_xl: bool) -> None:
    """The denoiser and the text encoders: whether each is trained, and with which rate."""
    common = found.values.get("lr")
    unet = source.part("unet")
    trains_unet = bool(unet.read("train", source.read("train_unet", True)))
    rate = unet.read("learning_rate", source.read("unet_learning_rate"))
    if trains_unet and rate:
        found.values["lr"] = rate
    encoders = ["text_encoder", "text_encoder_2"] if is_xl else ["text_encoder"]
    source.read("text_encoder_2")
    trained, rates = [], []
    for name in encoders:
        part = source.part(name)
        trained.append(bool(part.read("train", source.read(f"train_{name}", False))))
        rates.append(part.read("learning_rate", source.read(f"{name}_learning_rate")) or common)
        epochs = part.read("stop_training_after", source.read(f"train_{name}_epochs"))
        if trained[-1] and epochs and part.read("stop_training_after_unit", "EPOCH") != "NEVER":
            found.leave(f"{name}.stop_training_after", epochs)
        if part.read("dropout_probability"):
            found.values["caption_dropout_rate"] = part.read("dropout_probability")
        skip = whole(source.read(f"{name}_layer_skip", 0)) or 0
        if skip and not is_xl:
            found.values["clip_skip"] = skip + 1
        elif skip:
            found.leave(f"{name}_layer_skip", skip)
    if any(trained):
        found.values["train_text_encoder"] = True
        found.values["text_encoder_lr"] = [rate if on else 0.0 for rate, on in zip(rates, trained, strict=True)]
    if not trains_unet:
        found.values["network_train_text_encoder_only"] = True
    checkpoints = source.read("gradient_checkpointing", unet.read("gradient_checkpointing"))
    if checkpoints is not None:
        found.values["gradient_checkpointing"] = (
            "offload" if checkpoints == "CPU_OFFLOADED" else checkpoints not in (False, "OFF")
        )


def _loss(source: Source, found: Imported) -> None:
    found.take(source, "offset_noise_weight", "noise_offset", float)
    found.take(source, "perturbation_noise_weight", "ip_noise_gamma", float)
    weight, strength = source.read("loss_weight_fn", "CONSTANT"), source.read("loss_weight_strength", 5.0)
    if weight == "MIN_SNR_GAMMA":
        found.values["min_snr_gamma"] = strength
    elif weight == "DEBIASED_ESTIMATION":
        found.values["debiased_estimation_loss"] = True
    elif weight != "CONSTANT":
        found.leave("loss_weight_fn", weight, "value")
    parts = {name: source.read(f"{name}_strength", 0.0) for name in ("mae", "log_cosh", "huber")}
    squared = source.read("mse_strength", 1.0)
    if parts["mae"] == 1 and not squared and not parts["log_cosh"] and not parts["huber"]:
        found.values["loss_type"] = "l1"
    else:
        for name, share in {**parts, "mse": squared - 1.0}.items():
            if share:
                found.leave(f"{name}_strength", share if name != "mse" else squared)
    least, most = source.read("min_noising_strength", 0.0), source.read("max_noising_strength", 1.0)
    if least > 0:
        found.values["min_timestep"] = round(least * ALL_TIMESTEPS)
    if most < 1:
        found.values["max_timestep"] = round(most * ALL_TIMESTEPS)


def _saving(source: Source, found: Imported) -> None:
    _interval(source, found, "save_every", {"STEP": "save_every", "EPOCH": "save_every_n_epochs"})
    _interval(source, found, "save_after", {"STEP": "save_every", "EPOCH": "save_every_n_epochs"})
    _interval(source, found, "backup_after", {"MINUTE": "save_minutes"})
    _interval(source, found, "sample_after", {"STEP": "evaluate_every", "EPOCH": "sample_every_n_epochs"})
    if source.read("rolling_backup"):
        found.take(source, "rolling_backup_count", "keep_states", whole)


def _interval(source: Source, found: Imported, name: str, keys: Mapping[str, str]) -> None:
    every, unit = source.read(name), source.read(f"{name}_unit", "NEVER")
    if every in OFF or unit == "NEVER":
        return
    if unit in keys:
        found.values[keys[unit]] = every
    else:
        found.leave(name, f"{every} {unit}")


def _concepts(source: Source, found: Imported, read_list: ReadList) -> None:
    """Each concept is a folder of pictures with settings of its own."""
    name, concepts = source.read("concept_file_name"), source.read("concepts")
    concepts = concepts or (read_list(str(name)) if name else None)
    if concepts is None:
        found.leave("concept_file_name", name, "no_file")
        return
    for number, table in enumerate(concepts):
        concept = Source(table, f"concepts.{number}")
        if not concept.read("enabled", True):
            continue
        subset: dict[str, Any] = {"data": str(concept.read("path") or "")}
        repeats = concept.read("balancing", concept.read("repeats", 1))
        if whole(repeats) and concept.read("balancing_strategy", "REPEATS") == "REPEATS":
            subset["repeats"] = whole(repeats)
        else:
            found.leave(concept.full("balancing"), repeats)
        _captions(concept.part("text"), subset, found)
        image = concept.part("image")
        if image.read("enable_random_flip", False):
            subset["flip_aug"] = True
        found.leave_rest(image, frozenset({"random_rotate_max_angle", "resolution_override"}))
        concept.read("image_variations"), concept.read("text_variations")
        if concept.read("loss_weight", 1.0) != 1.0:
            found.leave(concept.full("loss_weight"), concept.read("loss_weight"))
        found.leave_rest(concept, frozenset({"name", "seed", "__version", "enabled"}))
        found.subsets.append(subset)


def _captions(text: Source, subset: dict[str, Any], found: Imported) -> None:
    if text.read("enable_tag_shuffling", False):
        subset["shuffle_caption"] = True
        subset["keep_tokens"] = whole(text.read("keep_tags_count", 1)) or 0
    separator = text.read("tag_delimiter", ",")
    if separator != ",":
        subset["caption_separator"] = separator
    if text.read("tag_dropout_enable", False) and text.read("tag_dropout_mode", "FULL") == "RANDOM":
        subset["caption_tag_dropout_rate"] = text.read("tag_dropout_probability", 0.0)
    if text.read("prompt_source", "sample") != "sample":
        found.leave(text.full("prompt_source"), text.read("prompt_source"))
    found.leave_rest(text, without_effect("onetrainer_captions"))


def _samples(source: Source, found: Imported, read_list: ReadList) -> None:
    name, samples = source.read("sample_definition_file_name"), source.read("samples")
    samples = samples or (read_list(str(name)) if name else None) or []
    lines = []
    for table in samples:
        sample = Source(table)
        if not sample.read("enabled", True) or not sample.read("prompt"):
            continue
        flags = {"n": used(sample.read("negative_prompt")), "w": sample.read("width"), "h": sample.read("height")}
        if not sample.read("random_seed", False):
            flags["d"] = sample.read("seed")
        flags |= {"s": sample.read("diffusion_steps"), "l": sample.read("cfg_scale")}
        given = [f"--{flag} {value}" for flag, value in flags.items() if value is not None]
        lines.append(" ".join([str(sample.read("prompt")), *given]))
    if lines:
        found.values["sample_prompt"] = lines
