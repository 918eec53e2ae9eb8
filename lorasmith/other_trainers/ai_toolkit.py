"""A configuration of ai-toolkit: YAML or JSON with a list of processes, of which a LoRA has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorasmith.errors import ConfigError
from lorasmith.other_trainers import ai_toolkit_flow as flow
from lorasmith.other_trainers.imported import Imported, Source, one_of, used, whole, without_effect
from lorasmith.other_trainers.optimizers import optimizer_named

TRAINER = "ai-toolkit"
KINDS = {"lora": "lora", "locon": "lora", "lokr": "lokr", "dora": "dora", "loha": "loha"}
TYPES = {
    **dict.fromkeys(("float16", "fp16"), "fp16"),
    **dict.fromkeys(("bfloat16", "bf16"), "bf16"),
    **dict.fromkeys(("float32", "float", "fp32"), "fp32"),
}
SHAPES = {"constant": "constant", "constant_with_warmup": "constant", "linear": "linear", "cosine": "cosine"}
ARCHES = ("sd1", "sd15", "sd2", "sdxl", "sd_xl", "stable_diffusion")
FLOW = "flowmatch"
OTHER_MODELS = ("is_v3", "is_auraflow", "is_pixart", "is_pixart_sigma", "is_lumina2", "is_omnigen2")


def is_ai_toolkit(table: Mapping[str, Any]) -> bool:
    config = table.get("config")
    return isinstance(config, Mapping) and isinstance(config.get("process"), list)


def from_ai_toolkit(table: Mapping[str, Any]) -> Imported:
    """The settings of a configuration.

    Raises:
        ConfigError: `import_no_lora`, `import_other_model`.
    """
    config, found = Source(table["config"]), Imported(TRAINER)
    processes = config.read("process")
    process = Source(processes[0] if processes else {})
    network = process.part("network")
    if not network.unread():
        raise ConfigError("import_no_lora", method=str(process.read("type")))
    arch = _model(process, found)
    name = str(config.read("name") or "").replace("[name]", "")
    if name:
        found.values["name"] = name
        if folder := process.read("training_folder"):
            found.values["output"] = f"{folder}/{name}"
    found.take(process, "trigger_word", "trigger_word")
    _network(network, found)
    _training(process, found)
    if arch:
        flow.training(process.part("train"), found, arch)
    _saving(process, found)
    for number, dataset in enumerate(process.read("datasets") or []):
        _dataset(Source(dataset, f"datasets.{number}"), found)
    _samples(process, found)
    found.leave_rest(process, without_effect("ai_toolkit"))
    for left in processes[1:]:
        found.leave("process", left.get("type") if isinstance(left, dict) else left)
    return found


def _model(process: Source, found: Imported) -> str:
    """Its files and kind; returns the architecture where it is one of flow matching that is trained here."""
    model = process.part("model")
    arch = "flux" if model.read("is_flux") else str(model.read("arch") or "sd1").partition(":")[0]
    others = [name for name in OTHER_MODELS if model.read(name)]
    is_flow = process.part("train").read("noise_scheduler") == FLOW
    if others or not (arch in flow.ARCHES or (arch.startswith(ARCHES) and not is_flow)):
        raise ConfigError("import_other_model", model=(others or [FLOW if arch.startswith(ARCHES) else arch])[0])
    found.take(model, "name_or_path", "base_model")
    found.take(model, "vae_path", "vae")
    if arch in flow.ARCHES:
        flow.model(model, found, arch)
    if model.read("is_v_pred"):
        found.values["prediction"] = "v_prediction"
    found.take(model, "refiner_name_or_path", "", lambda _: None)
    found.leave_rest(model, without_effect("ai_toolkit"))
    return arch if arch in flow.ARCHES else ""


def _network(network: Source, found: Imported) -> None:
    found.take(network, "type", "adapter", one_of(KINDS))
    for name in ("rank", "linear"):
        found.take(network, name, "rank", whole)
    found.values["alpha"] = float(network.read("linear_alpha", network.read("alpha", 1.0)))
    found.take(network, "conv", "conv_rank", lambda rank: whole(used(rank)))
    if "conv_rank" in found.values:
        found.values["conv_alpha"] = float(network.read("conv_alpha", found.values["conv_rank"]))
    found.take(network, "dropout", "dropout", float)
    found.take(network, "lokr_full_rank", "lokr_full_matrix", bool)
    found.take(network, "lokr_factor", "lokr_factor", whole)
    network.read("conv_alpha"), network.read("alpha")
    found.leave_rest(network, without_effect("ai_toolkit"))


def _training(process: Source, found: Imported) -> None:
    train = process.part("train")
    found.take(train, "steps", "steps", whole)
    found.take(train, "batch_size", "batch_size", whole)
    for name in ("gradient_accumulation", "gradient_accumulation_steps"):
        found.take(train, name, "accumulate", whole)
    for name in ("lr", "unet_lr"):
        found.take(train, name, "lr", float)
    found.take(train, "gradient_checkpointing", "gradient_checkpointing", bool)
    found.take(train, "dtype", "precision", one_of(TYPES))
    found.take(train, "max_grad_norm", "max_grad_norm", float)
    found.take(train, "min_snr_gamma", "min_snr_gamma", float)
    found.take(train, "noise_offset", "noise_offset", float)
    found.take(train, "optimizer", "optimizer", optimizer_named)
    found.take(train, "optimizer_params", "optimizer_option", _numbers)
    found.take(train, "lr_scheduler", "lr_schedule", one_of(SHAPES))
    warmup = Source(train.read("lr_scheduler_params"), "train.lr_scheduler_params")
    for name in ("warmup_steps", "num_warmup_steps"):
        found.take(warmup, name, "lr_warmup", whole)
    found.leave_rest(warmup, frozenset())
    found.take(train, "min_denoising_steps", "min_timestep", whole)
    found.take(train, "max_denoising_steps", "max_timestep", whole)
    found.take(train, "loss_type", "loss_type", one_of({"mse": "l2", "mae": "l1"}))
    if train.read("train_text_encoder", False):
        found.values["train_text_encoder"] = True
        found.take(train, "text_encoder_lr", "text_encoder_lr", float)
    if train.read("train_unet", True) is False:
        found.values["network_train_text_encoder_only"] = True
    if (style := train.read("content_or_style", "balanced")) != "balanced":
        found.leave("train.content_or_style", style)
    if train.read("skip_first_sample") is False:
        found.values["sample_at_first"] = True
    ema = train.part("ema_config")
    if ema.read("use_ema", False):
        found.values["ema_decay"] = ema.read("ema_decay", 0.99)
    train.read("text_encoder_lr")
    found.leave_rest(train, without_effect("ai_toolkit"))


def _saving(process: Source, found: Imported) -> None:
    save = process.part("save")
    found.take(save, "dtype", "save_precision", one_of(TYPES))
    found.take(save, "save_every", "save_every", whole)
    kept, every = whole(save.read("max_step_saves_to_keep")), found.values.get("save_every")
    if kept and every:
        found.values["save_last_n_steps"] = max(1, (kept - 1) * every)
    found.leave_rest(save, without_effect("ai_toolkit"))


def _dataset(dataset: Source, found: Imported) -> None:
    """A folder of pictures; in several resolutions it is as many subsets."""
    made = Imported(TRAINER, left_out=found.left_out)
    for name in ("dataset_path", "folder_path"):
        made.take(dataset, name, "data")
    made.take(dataset, "caption_ext", "caption_extension", lambda ending: f".{str(ending).lstrip('.')}")
    made.take(dataset, "caption_dropout_rate", "caption_dropout_rate", float)
    made.take(dataset, "token_dropout_rate", "caption_tag_dropout_rate", float)
    made.take(dataset, "shuffle_tokens", "shuffle_caption", bool)
    made.take(dataset, "keep_tokens", "keep_tokens", whole)
    made.take(dataset, "num_repeats", "repeats", whole)
    made.take(dataset, "flip_x", "flip_aug", bool)
    made.take(dataset, "random_crop", "random_crop", bool)
    made.take(dataset, "is_reg", "is_reg", bool)
    made.take(dataset, "alpha_mask", "alpha_mask", bool)
    made.take(dataset, "mask_path", "conditioning_data_dir")
    made.take(dataset, "default_caption", "class_words")
    given = dataset.read("resolution", 512)
    found.leave_rest(dataset, without_effect("ai_toolkit") | {"mask_min_value"})
    subset = {key: value for key, value in made.values.items() if value is not False}
    resolutions = given if isinstance(given, list) else [given]
    found.subsets += [{**subset, "resolution": whole(resolution)} for resolution in resolutions]


def _samples(process: Source, found: Imported) -> None:
    sample = process.part("sample")
    if not process.part("train").read("disable_sampling", False):
        found.take(sample, "sample_every", "evaluate_every", whole)
    flags = {"n": used(sample.read("neg")), "w": sample.read("width"), "h": sample.read("height")}
    flags |= {"s": sample.read("sample_steps"), "l": sample.read("guidance_scale")}
    shared = [f"--{flag} {value}" for flag, value in flags.items() if value is not None]
    seed, walks = whole(sample.read("seed", 0)) or 0, bool(sample.read("walk_seed", False))
    lines = []
    for number, prompt in enumerate(sample.read("prompts") or []):
        text = str(prompt).replace("[trigger]", str(process.read("trigger_word") or "").strip()).strip()
        lines.append(" ".join([text, *shared, f"--d {seed + number * walks}"]))
    if lines:
        found.values["sample_prompt"] = lines
    found.leave_rest(sample, without_effect("ai_toolkit"))


def _numbers(table: Any) -> dict[str, Any] | None:
    """Options with numbers as such: YAML reads 1e-4 as a text."""
    return {name: _number(value) for name, value in table.items()} if isinstance(table, Mapping) else None


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
