"""The state of a run before its first step: the adapter attached, perhaps from --init-from, and the optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings, by_layer
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config import AdapterConfig, RunConfig, TrainingConfig
from lorasmith.engine.average import WeightAverage
from lorasmith.engine.cpu import speed_up_frozen
from lorasmith.engine.optimizers import build_optimizer
from lorasmith.engine.state import LossScaler, Origin, TrainState
from lorasmith.errors import ModelError
from lorasmith.exporting.names import from_file
from lorasmith.families.base import ModelFamily
from lorasmith.lora_files.names import FAMILY_NAMES, layers_of
from lorasmith.lora_files.reader import alphas_beside, names_in_table, read_lora, without_untrained_text
from lorasmith.session.layers import check_blocks, chosen_layers
from lorasmith.session.rates import base_lrs, group_of
from lorasmith.targets import LayerSpec

EXTENSIBLE = frozenset({"lora"})
"""Kinds whose ranks add up, so that a start of a lower rank is exact: new ranks of `lora_up` are zero."""
SHOWN = 3  # layers named in a message


def initial_state(
    config: RunConfig, family: ModelFamily, models: Mapping[str, nn.Module], start: dict[str, Tensor], *, precision: str
) -> TrainState:
    """Attaches the adapter to the models and returns the state of step 0. `start`: the tensors of `read_init_from`.

    Raises:
        ConfigError: as `layer_settings` and `check_blocks`.
        ModelError: as `fill_adapter`.
    """
    check_blocks(config.adapter, family.traits.name)
    offered = family.target_modules(models)
    settings = layer_settings(config.adapter, family.traits.name, {target.name: target.spec for target in offered})
    targets = [target for target in offered if target.name in settings]
    kind = adapter_kind(config.adapter.kind, config.adapter.kind_options)
    group = group_of(config.optimizer, [target.name for target in targets])
    adapter = FlatAdapter.attach(
        kind,
        targets,
        settings,
        seed=config.seed,
        group_of=lambda target, suffix: group(target.name, suffix),
        dtype=adapter_dtype(config.training),
    )
    adapter.set_training(True)
    if start:
        fill_adapter(adapter, start, config.adapter.init_from)
    for model in models.values():
        speed_up_frozen(model)
    adapter.join()
    lrs = base_lrs(config.optimizer, adapter.groups(), family.traits.text_encoders)
    decay = config.training.ema_decay
    return TrainState(
        step=0,
        adapter=adapter,
        optimizer=build_optimizer(config.optimizer.name, adapter, base_lrs=lrs, options=config.optimizer.options),
        scaler=LossScaler() if precision == "fp16" else None,
        origin=Origin(step=0, epoch=1),
        gradient_checkpointing=config.training.checkpoints_blocks,
        average=WeightAverage(decay, adapter.flat.detach().to(torch.float32, copy=True)) if decay else None,
    )


def adapter_dtype(config: TrainingConfig) -> torch.dtype:
    """The type of the adapter's numbers, their gradients and most of the optimizer's state."""
    return torch.bfloat16 if config.full_bf16 else torch.float32


def layer_settings(config: AdapterConfig, family: str, layers: Mapping[str, LayerSpec]) -> dict[str, LayerSettings]:
    """The settings of each of these layers of the family that the adapter changes, by the name of the target.

    Raises:
        ConfigError: as `chosen_layers`.
    """
    dropouts = (config.dropout, config.rank_dropout, config.module_dropout)
    return {
        name: LayerSettings(size.rank, size.alpha, *dropouts)
        for name, size in chosen_layers(config, family, layers).items()
    }


def read_init_from(config: AdapterConfig, family: str) -> dict[str, Tensor]:
    """The tensors of --init-from by the adapter's names, with a scale of 1; none where no file is named.

    Raises:
        ModelError: no such file, or no adapter of this kind for this family.
    """
    if not config.init_from:
        return {}
    path = Path(config.init_from)
    try:
        file = without_untrained_text(read_lora(path), family)
        names = names_in_table(file, family)
        stored = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError("lora_unreadable", path=str(path), reason=str(error)) from None
    kind, table = adapter_kind(config.kind, config.kind_options), layers_of(family).known
    if len(set(names.values())) < len(names):
        twice = next(key for key, name in names.items() if list(names.values()).count(name) > 1)
        raise ModelError("init_from_foreign", key=twice, family=FAMILY_NAMES.get(family, family))
    tensors = {names[key]: tensor for key, tensor in stored.items() if key in names}
    for name, alpha in alphas_beside(file, family).items():
        tensors[name] = torch.tensor(alpha)
    try:
        return from_file(tensors, kind, table)
    except ModelError as error:
        if config.kind == "lokr" and error.code in ("init_from_shape", "init_from_incomplete"):
            raise ModelError("init_from_other_matrices", path=str(path), key=error.fields["key"]) from error
        if error.code == "init_from_foreign":  # `exporting` knows no names of families but their codes
            raise ModelError(error.code, key=error.fields["key"], family=FAMILY_NAMES.get(family, family)) from error
        raise


def fill_adapter(adapter: FlatAdapter, start: dict[str, Tensor], path: str) -> None:
    """Gives the layers the change that the tensors of `read_init_from` make; all other layers keep their initial
    numbers. A pair of a lower rank fills the first ranks; the others start as in a new adapter, without a change.

    Raises:
        ModelError: `init_from_not_trained`, a layer that this adapter does not have; `init_from_other_model`, another
            size: the file is for another base model; `init_from_rank`, a rank that the adapter cannot hold.
    """
    own = adapter.tensors()
    layers = by_layer(start, adapter.kind)
    untrained = [target for target in layers if target not in adapter.layers]
    if untrained:
        raise ModelError("init_from_not_trained", path=path, count=len(untrained), layers=untrained[:SHOWN])
    for target, layer in layers.items():
        spec, settings = adapter.layers[target]
        found, rank = _layer_of(adapter, target, layer)
        if found != spec:
            raise ModelError("init_from_other_model", path=path, key=target)
        shapes = adapter.kind.shapes(spec, settings)
        is_same = {suffix: tuple(tensor.shape) for suffix, tensor in layer.items()} == shapes
        if not is_same and not (adapter.kind.name in EXTENSIBLE and rank < settings.rank):
            option = "conv-rank" if spec.has_neighbours else "rank"
            largest = max(
                _layer_of(adapter, name, tensors)[1]
                for name, tensors in layers.items()
                if adapter.layers[name].spec.has_neighbours == spec.has_neighbours
            )
            raise ModelError("init_from_rank", path=path, found=largest, rank=settings.rank, option=option)
        scale = adapter.kind.file_scale(shapes, adapter.kind.file_alpha(shapes, settings))
        for suffix, tensor in adapter.kind.scaled(layer, 1 / scale).items():
            own[f"{target}.{suffix}"] = _extended(tensor, own[f"{target}.{suffix}"])
    adapter.load_tensors(own)


def _layer_of(adapter: FlatAdapter, target: str, layer: Mapping[str, Tensor]) -> tuple[LayerSpec, int]:
    """The layer and the rank that the tensors are for."""
    shapes = {suffix: tuple(tensor.shape) for suffix, tensor in layer.items()}
    return adapter.kind.layer_of(shapes, adapter.layers[target].spec.kernel)


def _extended(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor, with the rest of `like` where it is smaller."""
    result = like.clone()
    result[tuple(map(slice, tensor.shape))] = tensor
    return result
