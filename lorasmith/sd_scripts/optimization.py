"""Optimizer, learning rates and schedule of a command line of sd-scripts."""

from __future__ import annotations

from lorasmith.config.optimizer_table import canonical_name, known_optimizer, uses_relative_steps
from lorasmith.config.sections import LR_SHAPES
from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.pairs import literals
from lorasmith.sd_scripts.settings import Settings

WARMED_UP = "constant_with_warmup"
TORCH = "torch.optim.lr_scheduler"
OTHER_NAMES = {"adafactor": "transformers.adafactor"}
"""Name there -> name here, where they differ."""
OF_SHAPES = {
    "lr_scheduler_num_cycles": ("cycles", "lr-scheduler-num-cycles"),
    "lr_scheduler_power": ("power", "lr-scheduler-power"),
    "lr_scheduler_timescale": ("timescale", "lr-scheduler-timescale"),
    "lr_scheduler_min_lr_ratio": ("min_ratio", "lr-scheduler-min-lr-ratio"),
    "lr_decay_steps": ("decay_steps", "lr-decay-steps"),
}
"""Argument of some schedules alone -> its field among LR_SHAPES, and the option."""
OF_SCHEDULES = ("lr_scheduler", "lr_scheduler_type", "lr_warmup_steps")


def optimization(given: Given, settings: Settings) -> None:
    """Sets optimizer, learning rates and schedule."""
    _optimizer(given, settings)
    _rates(given, settings)
    _schedule(given, settings)


def _optimizer(given: Given, settings: Settings) -> None:
    shortcuts = {"use_8bit_adam": "adamw8bit", "use_lion_optimizer": "lion"}
    used = [name for name in ("optimizer_type", *shortcuts) if given.has(name)]
    if len(used) > 1:
        raise ConfigError("sd_contradiction", first=f"--{used[0]}", second=f"--{used[1]}")
    argument = used[0] if used else "optimizer_type"
    name = shortcuts.get(argument) or given.value("optimizer_type") or "adamw"
    settings.set("optimizer", OTHER_NAMES.get(name.lower(), name), argument)
    if given.has("optimizer_args"):
        settings.set("optimizer-option", literals(given.value("optimizer_args"), "--optimizer_args"), "optimizer_args")


def _rates(given: Given, settings: Settings) -> None:
    """sd-scripts takes `--learning_rate` for the parts without a rate of their own."""
    shared = given.value("learning_rate")
    source = "unet_lr" if given.has("unet_lr") else "learning_rate"
    denoiser = given.value("unet_lr") if given.has("unet_lr") else shared
    settings.set("lr", denoiser, source)
    if not given.has("learning_rate") and not given.has("unet_lr"):
        settings.note("sd_default_learning_rate", lr=f"{shared:g}")
    encoders = _encoder_rates(given, shared)
    if given.script == "train_network" and len(encoders) > 1:  # its models have a single text encoder
        settings.note("sd_first_rate_only", lr=f"{encoders[0]:g}")
        encoders = encoders[:1]
    is_left_out = settings.values.get("train-text-encoder") is False  # by a preset
    if is_left_out or given.has("network_train_unet_only") or not any(encoders):
        settings.set("train-text-encoder", False, "network_train_unet_only")
        return
    if given.has("network_train_text_encoder_only") or denoiser == 0:
        argument = "network_train_text_encoder_only" if given.has("network_train_text_encoder_only") else "unet_lr"
        settings.set("network-train-text-encoder-only", True, argument)
    settings.set("train-text-encoder", True, "network_train_unet_only")
    if set(encoders) != {denoiser}:
        settings.set("text-encoder-lr", encoders, "text_encoder_lr")


def _encoder_rates(given: Given, shared: float) -> list[float]:
    rates: list[float] | None = given.value("text_encoder_lr")
    single = [given.value("text_encoder_lr1"), given.value("text_encoder_lr2")]
    if single != [None, None]:
        return [shared if rate is None else rate for rate in single]
    return rates or [shared]


def _schedule(given: Given, settings: Settings) -> None:
    name = canonical_name(str(settings.values["optimizer"]))
    known = known_optimizer(name)
    if (known is not None and known.has_own_schedule) or uses_relative_steps(
        name, settings.values.get("optimizer-option", {})
    ):
        unused = [f"--{argument}" for argument in OF_SCHEDULES if given.has(argument)]
        if unused:
            settings.note("sd_schedule_unused", optimizer=name, arguments=unused)
        return
    shape = _shape(given, settings)
    settings.set("lr-schedule", shape, "lr_scheduler_type" if given.has("lr_scheduler_type") else "lr_scheduler")
    _set_steps("lr-warmup", "lr_warmup_steps", given, settings)
    unused = []
    for argument, (field, option) in OF_SHAPES.items():
        value = given.value(argument)
        if field in LR_SHAPES.get(shape, ()):
            if value and argument == "lr_decay_steps":
                _set_steps(option, argument, given, settings)
            elif value and given.has(argument):
                settings.set(option, value, argument)
        elif given.has(argument) and value and value != Given({}).value(argument):
            unused.append(f"--{argument}")
    if unused:
        settings.note("sd_shape_options_unused", shape=shape, arguments=unused)
    if given.has("lr_scheduler_args") and given.value("lr_scheduler_args"):
        pairs = literals(given.value("lr_scheduler_args"), "--lr_scheduler_args")
        settings.set("lr-scheduler-args", pairs, "lr_scheduler_args")


def _shape(given: Given, settings: Settings) -> str:
    """The name of the schedule, or the class of a library; classes without a module are those of torch."""
    kind = given.value("lr_scheduler_type")
    if kind:
        return str(kind) if "." in kind else f"{TORCH}.{kind}"
    shape = str(given.value("lr_scheduler"))
    if shape == "constant" and given.value("lr_warmup_steps"):
        settings.note("sd_constant_with_warmup")
        return WARMED_UP
    return shape


def _set_steps(option: str, argument: str, given: Given, settings: Settings) -> None:
    """Sets a number of steps, which may be given as a share of all steps."""
    value = given.value(argument)
    if not value:
        return
    if isinstance(value, float) and given.value("max_train_epochs"):
        settings.shares[option] = value
        settings.arguments[option] = f"--{argument}"
    else:
        steps = value if isinstance(value, int) else int(value * given.value("max_train_steps"))
        settings.set(option, steps, argument)
