"""The state of a run before its first step: the adapter attached, perhaps from --init-from, and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings, by_layer
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config import AdapterConfig, RunConfig
from lorasmith.engine.cpu import speed_up_frozen
from lorasmith.engine.optimizers import build_optimizer
from lorasmith.engine.state import LossScaler, Origin, TrainState
from lorasmith.errors import ModelError
from lorasmith.exporting.names import from_file
from lorasmith.families.base import ModelFamily
from lorasmith.session.layers import chosen_layers
from lorasmith.session.name_tables import name_table
from lorasmith.targets import LayerSpec


def initial_state(
    config: RunConfig, family: ModelFamily, models: Mapping[str, nn.Module], start: dict[str, Tensor], *, precision: str
) -> TrainState:
    """Attaches the adapter to the models and returns the state of step 0. `start`: the tensors of `read_init_from`.

    Raises:
        ModelError: as `fill_adapter`.
    """
    offered = family.target_modules(models)
    settings = layer_settings(config.adapter, {target.name: target.spec for target in offered})
    targets = [target for target in offered if target.name in settings]
    adapter = FlatAdapter.attach(adapter_kind(config.adapter.kind), targets, settings, seed=config.seed)
    adapter.set_training(True)
    if start:
        fill_adapter(adapter, start, config.adapter.init_from)
    for model in models.values():
        speed_up_frozen(model)
    lrs = base_lrs(config, adapter)
    return TrainState(
        step=0,
        adapter=adapter,
        optimizer=build_optimizer(config.optimizer.name, adapter, base_lrs=lrs, options=config.optimizer.options),
        scaler=LossScaler() if precision == "fp16" else None,
        origin=Origin(step=0, epoch=1),
        gradient_checkpointing=config.training.gradient_checkpointing,
    )


def base_lrs(config: RunConfig, adapter: FlatAdapter) -> dict[str, float]:
    """The learning rate of each component of the adapter, without the schedule's factor."""
    denoiser, text = config.optimizer.lr, config.optimizer.resolved_text_encoder_lr
    return {name: denoiser if name == "denoiser" else text for name in adapter.groups()}


def layer_settings(config: AdapterConfig, layers: Mapping[str, LayerSpec]) -> dict[str, LayerSettings]:
    """The settings of each of these layers that the adapter changes, by the name of the target.

    Raises:
        ConfigError: as `chosen_layers`.
    """
    dropouts = (config.dropout, config.rank_dropout, config.module_dropout)
    return {
        name: LayerSettings(size.rank, size.alpha, *dropouts) for name, size in chosen_layers(config, layers).items()
    }


def read_init_from(config: AdapterConfig, family: str) -> dict[str, Tensor]:
    """The tensors of --init-from by the adapter's names, with a scale of 1; none where no file is named.

    Raises:
        ModelError: no such file, no adapter of this kind for this family, a layer that this run does not train, or
            another rank.
    """
    if not config.init_from:
        return {}
    path = Path(config.init_from)
    try:
        stored = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise ModelError("init_from_missing", path=str(path)) from None
    except (OSError, SafetensorError) as error:
        raise ModelError("init_from_unreadable", path=str(path), reason=str(error)) from None
    kind, table = adapter_kind(config.kind), name_table(family)
    tensors = from_file(stored, kind, table)
    chosen = chosen_layers(config, {name: row.layer for name, row in table.targets.items()})
    for target, layer in by_layer(tensors, kind).items():
        if target not in chosen:
            raise ModelError("init_from_not_trained", path=str(path), layer=target)
        shapes = {suffix: tuple(tensor.shape) for suffix, tensor in layer.items()}
        _, rank = kind.layer_of(shapes, table.targets[target].layer.kernel)
        if rank != chosen[target].rank:
            raise ModelError("init_from_rank", path=str(path), found=rank, rank=chosen[target].rank, layer=target)
    return tensors


def fill_adapter(adapter: FlatAdapter, start: dict[str, Tensor], path: str) -> None:
    """Gives the layers the change that the tensors of `read_init_from` make; all other layers keep their initial
    numbers.

    Raises:
        ModelError: a layer that this adapter does not have, or another shape: the file is for another base model.
    """
    own = adapter.tensors()
    for name, tensor in start.items():
        if name not in own or own[name].shape != tensor.shape:
            raise ModelError("init_from_other_model", path=path, key=name)
    for target, layer in by_layer(start, adapter.kind).items():
        spec, settings = adapter.layers[target]
        scale = adapter.kind.file_scale(adapter.kind.shapes(spec, settings), adapter.kind.file_alpha(settings))
        scaled = adapter.kind.scaled(layer, 1 / scale)
        own |= {f"{target}.{suffix}": tensor for suffix, tensor in scaled.items()}
    adapter.load_tensors(own)
