"""Optimizer, learning rates and schedule of a command line of sd-scripts."""

from __future__ import annotations

from typing import Any

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.command_line import Given
from lorasmith.sd_scripts.pairs import literals
from lorasmith.sd_scripts.settings import Settings

RESTARTS = "cosine_with_restarts"
WARMED_UP = "constant_with_warmup"


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
    settings.set("optimizer", shortcuts.get(argument) or given.value("optimizer_type") or "adamw", argument)
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
    if given.has("network_train_unet_only") or not any(encoders):
        settings.set("train-text-encoder", False, "network_train_unet_only")
        return
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
    shape = str(given.value("lr_scheduler"))
    warmup = given.value("lr_warmup_steps")
    if shape == "constant" and warmup:
        settings.note("sd_constant_with_warmup")
    if shape == WARMED_UP:
        shape = "constant"
    cycles = given.value("lr_scheduler_num_cycles")
    if shape == RESTARTS and cycles > 1:
        shape = f"{RESTARTS}:{cycles}"
    settings.set("lr-schedule", shape, "lr_scheduler")
    if warmup:
        settings.set("lr-warmup", _steps(warmup, given), "lr_warmup_steps")


def _steps(value: Any, given: Given) -> int:
    """A number of steps that may be given as a share of all steps."""
    if isinstance(value, int):
        return value
    if given.has("max_train_epochs"):
        raise ConfigError("sd_share_of_epochs", argument="--lr_warmup_steps")
    return int(value * given.value("max_train_steps"))
