"""Checks the settings of a start, before anything is read that they name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from importlib.util import find_spec
from typing import Any

from lorasmith.adapters import ADAPTERS, DROP_RANKS, LIMITED_NORMS
from lorasmith.config import AdapterConfig, OptimizerConfig, Request, RunConfig
from lorasmith.config.optimizer_table import OPTIMIZERS, known_optimizer, uses_relative_steps
from lorasmith.errors import ConfigError, ResumeError
from lorasmith.session.lanes import size_of
from lorasmith.session.layers import check_blocks, chosen_layers, published_layers
from lorasmith.session.name_tables import check_export_format
from lorasmith.session.rates import PLUS_KINDS, check_rates_of_blocks

# Fields that give a LoKr of full matrices nothing: it has no rank, and readers ignore its alpha.
_OF_LOW_RANK = ("rank", "alpha", "conv_rank", "conv_alpha", "rslora")
_DEVICE = re.compile(r"auto|(cpu|cuda|mps)(:[0-9]{1,3})?")


def check_settings(config: RunConfig, request: Request) -> None:
    """Refuses settings that contradict each other and names that do not exist."""
    _check_names(config)
    if request.steps is not None and request.epochs is not None:
        raise ConfigError("steps_and_epochs")
    if request.memory is not None:
        size_of(request.memory)  # which refuses what is no size, before pictures are read
    if config.cadence.save_every_n_epochs and config.cadence.save_n_epoch_ratio:
        raise ConfigError("save_epochs_twice")
    _check_rates(config)
    _check_storage(config)
    if config.optimizer.text_encoder_lr and not config.adapter.trains_text_encoder:
        raise ConfigError("text_encoder_lr_unused")
    for unused in config.adapter.unused_options:
        raise ConfigError("lokr_option_unused", option=unused, adapter=config.adapter.kind)
    masks = [subset.config.loss for subset in config.subsets()]
    if config.loss.masked_loss and not any(loss.mask_folder or loss.alpha_mask for loss in masks):
        raise ConfigError("masked_loss_without_masks")
    if config.noise.adaptive_scale is not None and not config.noise.offset:
        raise ConfigError("adaptive_noise_scale_alone")
    if config.noise.max_timestep is not None and config.noise.min_timestep > config.noise.max_timestep:
        raise ConfigError("timesteps_crossed", first=config.noise.min_timestep, stop=config.noise.max_timestep)
    horizon = config.lr_schedule.horizon_steps
    if horizon is not None and config.lr_schedule.warmup_steps >= horizon:
        raise ConfigError("warmup_beyond_horizon", warmup=config.lr_schedule.warmup_steps, horizon=horizon)


def _check_names(config: RunConfig) -> None:
    """Checks the names of things that only the worker can load.

    Raises:
        ConfigError: an optimizer, a kind of adapter or a device that does not exist anywhere; an option that this kind
            of adapter cannot have.
    """
    if config.adapter.kind not in ADAPTERS:
        kinds = ", ".join(ADAPTERS)
        raise ConfigError("config_value", option="adapter", value=repr(config.adapter.kind), expected=kinds)
    if config.adapter.rank_dropout and config.adapter.kind not in DROP_RANKS:
        raise ConfigError("rank_dropout_kind", kind=config.adapter.kind, kinds=", ".join(sorted(DROP_RANKS)))
    if config.training.scale_weight_norms and config.adapter.kind not in LIMITED_NORMS:
        kinds = ", ".join(sorted(LIMITED_NORMS))
        raise ConfigError("scale_weight_norms_kind", kind=config.adapter.kind, kinds=kinds)
    if known_optimizer(config.optimizer.name) is None:
        accepted = ", ".join(OPTIMIZERS)
        raise ConfigError("optimizer_unknown", optimizer=config.optimizer.name, accepted=accepted)
    if not _DEVICE.fullmatch(config.machine.device):
        raise ConfigError("device_unknown", device=config.machine.device)


def check_installed(optimizer: OptimizerConfig) -> None:
    """Refuses an optimizer whose library is not installed."""
    known = known_optimizer(optimizer.name)
    if known is not None and find_spec(known.module) is None:
        reason = f"No module named '{known.module}'"
        raise ConfigError("optimizer_not_installed", optimizer=optimizer.name, package=known.package, reason=reason)


def _check_rates(config: RunConfig) -> None:
    """Refuses learning rates and schedules that the optimizer cannot have."""
    name, schedule, known = config.optimizer.name, config.lr_schedule, known_optimizer(config.optimizer.name)
    assert known is not None, "a name that _check_names refuses"
    rates = {config.optimizer.lr, *config.optimizer.text_encoder_lr} - {0.0}
    differing = config.optimizer.options_of_groups
    if known.one_rate and (len(rates) > 1 or differing):  # their libraries end the first update with an error
        raise ConfigError("prodigy_rates", optimizer=name)
    schedule.check(config.optimizer.lr)
    is_plain = schedule.name in ("constant", "constant_with_warmup") and not schedule.warmup_steps
    for option, value in (
        ("ema-decay", config.training.ema_decay),
        ("scale-weight-norms", config.training.scale_weight_norms),
    ):
        if known.has_own_schedule and value:
            raise ConfigError("option_of_schedule_free", optimizer=name, option=option)
    if known.has_own_schedule and not is_plain:
        raise ConfigError("schedule_of_schedule_free", optimizer=name)
    if uses_relative_steps(name, config.optimizer.options) and not (is_plain and not differing):
        option = differing[0] if differing else "lr-warmup" if schedule.warmup_steps else "lr-schedule"
        raise ConfigError("rates_of_relative_steps", optimizer=name, option=option)
    _check_plus(config.optimizer, config.adapter)
    if schedule.is_class and schedule.warmup_steps:
        raise ConfigError("warmup_of_class", shape=schedule.shape)


def _check_storage(config: RunConfig) -> None:
    """Refuses a kind of adapter, types of numbers and a training adapter that do not go together."""
    if config.training.full_bf16 and config.model.precision != "bf16":
        raise ConfigError("full_bf16_precision")
    model = config.model
    for option, is_set in (
        ("full-bf16", config.training.full_bf16),
        ("base-precision", model.base_precision != "auto"),
        ("base-offload", model.base_offload > 0),
    ):
        if is_set and config.adapter.kind == "dora":
            raise ConfigError("dora_in_float32", option=option)
    if model.training_adapter and config.adapter.kind == "dora":
        raise ConfigError("training_adapter_dora")


def _check_plus(optimizer: OptimizerConfig, adapter: AdapterConfig) -> None:
    """Refuses ratios of LoRA+ that nothing has: another kind of adapter, a text encoder that is not trained."""
    ratios = [name for name in optimizer.options_of_groups if name != "block-lr"]
    if ratios and adapter.kind not in PLUS_KINDS:
        raise ConfigError("loraplus_kind", option=ratios[0], adapter=adapter.kind, kinds=", ".join(sorted(PLUS_KINDS)))
    if optimizer.loraplus_text_encoder_lr_ratio is not None and not adapter.trains_text_encoder:
        raise ConfigError("loraplus_text_encoder")


def check_lokr_effects(adapter: AdapterConfig, given: Set[str]) -> None:
    """Refuses options of a new LoKr that have no effect, or contradict each other.

    Args:
        given: the fields of `adapter` that were set.

    Raises:
        ConfigError: `lokr_options_contradict`, `lokr_full_matrix_unused`.
    """
    if adapter.kind != "lokr" or not adapter.lokr_full_matrix:
        return
    if adapter.lokr_decompose_both:
        raise ConfigError("lokr_options_contradict")
    unused = [name for name in _OF_LOW_RANK if name in given and getattr(adapter, name) not in (None, False)]
    if any(adapter.block_ranks.values()):
        unused.append("block_rank")
    for name in unused:
        raise ConfigError("lokr_full_matrix_unused", option=name.replace("_", "-"))


def check_layers(config: RunConfig, family: str, depths: Mapping[str, int] | None = None) -> None:
    """Refuses settings that do not fit the layers of the family's published model, with as many blocks as `depths`
    states. Of a pickle, the family is not known.

    Args:
        depths: None for a run that is continued: it may have begun when this was not checked.
    """
    if not family:
        return
    check_export_format(config.export.format, config.adapter, family)
    layers = published_layers(family, with_text_encoders=config.adapter.trains_text_encoder, depths=depths)
    check_blocks(config.adapter, family, depths)
    chosen_layers(config.adapter, family, layers)
    check_rates_of_blocks(config.optimizer, config.adapter, family, depths)
    encoders = {name.partition(".")[0] for name in layers} - {"denoiser"}
    if len(config.optimizer.text_encoder_lr) not in (0, 1, len(encoders)):
        given = len(config.optimizer.text_encoder_lr)
        raise ConfigError("text_encoder_lr_count", given=given, encoders=len(encoders))


def check_identity(before: RunConfig, after: RunConfig) -> None:
    """Refuses a change of the settings that the tensors in the states depend on.

    Raises:
        ConfigError: `base_weights_fixed`.
        ResumeError: `identity_changed`; `identity_added` and `identity_removed` where one of the values is unset.
    """
    if _merged(before) != _merged(after):
        raise ConfigError("base_weights_fixed")
    old, new = before.identity_values(), after.identity_values()
    for option, value in old.items():
        if new[option] == value:
            continue
        was, now = _typed(value), _typed(new[option])
        if was and now:
            raise ResumeError("identity_changed", option=option, before=was, now=now)
        raise ResumeError("identity_removed" if was else "identity_added", option=option, value=was or now)


def _merged(config: RunConfig) -> tuple[tuple[str, ...], tuple[float, ...]]:
    return config.model.base_weights, config.model.base_weights_multiplier


def _typed(value: Any) -> str:
    """A value as it is typed; "" for an option that is not set."""
    if isinstance(value, dict):
        return " ".join(f"{key}={part}" for key, part in value.items())
    if value is None or value is False:
        return ""
    return str(value).lower() if value is True else str(value)
