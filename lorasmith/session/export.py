"""Exports the adapter of a run as a LoRA file, with metadata about the run."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config import AdapterConfig, RunConfig
from lorasmith.data.types import Example
from lorasmith.engine.batches import RunBatches
from lorasmith.engine.optimizers import OPTIMIZERS
from lorasmith.engine.state import TrainState
from lorasmith.exporting.metadata import BucketFacts, ExportFacts, FolderFacts, count_tags
from lorasmith.exporting.name_table import NameTable
from lorasmith.exporting.names import to_file
from lorasmith.exporting.write import SAVE_TYPES, write_export
from lorasmith.families.base import ModelFamily
from lorasmith.families.identity import short_hash
from lorasmith.session.layers import base_lrs, block_dims
from lorasmith.session.name_tables import name_table
from lorasmith.session.notices import Notice, export_notices

# Readers show the most frequent few; a header of a million tags would only be slow to load.
MAX_TAGS = 1000


@dataclass(frozen=True, slots=True)
class Exporter:
    """Writes the adapter of a run under the names of files."""

    config: RunConfig
    family: ModelFamily
    trained: tuple[Example, ...]
    held_out: int  # pictures
    batches: RunBatches
    attempt_began: float  # wall clock, seconds since 1970

    def export(self, state: TrainState, path: Path, *, stop_at: int) -> tuple[Path, str]:
        """Writes and checks the file, gives it its name, and returns its path and SHA-256."""
        adapter, table = state.adapter, name_table(self.family.traits.name)
        settings = {target: layer.settings for target, layer in adapter.layers.items()}
        return write_export(
            path,
            to_file(adapter.tensors(), adapter.kind, table, settings),
            self._facts(state, stop_at),
            precision=SAVE_TYPES[self.config.export.save_precision],
            kind=adapter.kind,
            table=table,
            layers=adapter.layers,
        )

    def notices(self, state: TrainState) -> list[Notice]:
        """Notices of values of this state that its file does not hold."""
        return export_notices(state.adapter.tensors(), SAVE_TYPES[self.config.export.save_precision])

    def _facts(self, state: TrainState, stop_at: int) -> ExportFacts:
        config, traits, kind = self.config, self.family.traits, state.adapter.kind
        table = name_table(traits.name)
        lrs = base_lrs(config.optimizer, state.adapter.groups(), traits.text_encoders)
        per_epoch = self.batches.order.batches_per_epoch
        return ExportFacts(
            run_id=config.identity(),
            name=config.export.name,
            step=state.step,
            epoch=self.batches.epoch_of(state.step),
            started_at=self.attempt_began,
            finished_at=time.time(),
            base_model_name=Path(config.model.base_model).name,
            base_model_sha256=config.model.base_sha256,
            vae_name=Path(config.model.vae).name,
            vae_sha256=config.model.vae_sha256,
            vae_short_hash=_vae_short_hash(self.family),
            base_model_version=traits.base_model_version,
            architecture=traits.architecture,
            implementation=traits.implementation,
            prediction=self.family.weights.noise.prediction,
            zero_terminal_snr=config.model.zero_terminal_snr == "on",
            clip_skip=max(config.model.clip_skip, traits.least_clip_skip),
            network_module=kind.network_module,
            network_args={**kind.network_args, **_network_args(config.adapter, state.adapter, table)},
            rank=config.adapter.rank,
            alpha=config.adapter.alpha_of_readers(config.adapter.resolved_alpha, config.adapter.rank),
            dropout=config.adapter.dropout,
            lr=config.optimizer.lr,
            denoiser_lr=lrs.get("denoiser"),
            text_encoder_lr=tuple(rate for name, rate in lrs.items() if name != "denoiser"),
            optimizer=OPTIMIZERS[config.optimizer.name].replace(":", "."),
            optimizer_options=config.optimizer.options,
            lr_schedule=config.lr_schedule.shape,
            lr_warmup_steps=config.lr_schedule.warmup_steps,
            target_steps=stop_at,
            epochs=math.ceil(stop_at * config.training.accumulation_steps / per_epoch),
            micro_batches_per_epoch=per_epoch,
            accumulation_steps=config.training.accumulation_steps,
            batch_size=config.training.batch_size,
            gradient_checkpointing=state.gradient_checkpointing,
            max_grad_norm=config.training.max_grad_norm,
            precision=config.model.precision,
            seed=config.seed,
            folders=_folders(self.trained),
            buckets=_buckets(self.trained),
            mean_aspect_error=_mean_aspect_error(self.trained),
            held_out=self.held_out,
            resolution=config.dataset.resolved_resolution(self.family.weights.resolution),
            trigger_word=config.dataset.trigger_word,
        )


def _vae_short_hash(family: ModelFamily) -> str:
    vae = family.weights.replaced.get("vae")
    return "" if vae is None else short_hash(vae.path)


def _network_args(config: AdapterConfig, adapter: FlatAdapter, table: NameTable) -> dict[str, str]:
    """The settings of layers under the names, and as the texts, that sd-scripts and LyCORIS write; `targets` and
    `block_rank` are this program's own."""
    args: dict[str, str] = {}
    if any(layer.spec.has_neighbours for layer in adapter.layers.values()):
        rank = config.resolved_conv_rank
        args |= {"conv_dim": str(rank), "conv_alpha": str(config.alpha_of_readers(config.resolved_conv_alpha, rank))}
    if config.targets:
        args["targets"] = config.targets
    if config.block_ranks:
        args["block_rank"] = ",".join(f"{block}={rank}" for block, rank in config.block_ranks.items())
        pointwise = {name: own.settings.rank for name, own in adapter.layers.items() if not own.spec.has_neighbours}
        dims = block_dims(table.targets, pointwise)
        if dims is not None:
            args["block_dims"] = ",".join(map(str, dims))
            args["block_alphas"] = ",".join(str(config.alpha_of_readers(config.resolved_alpha, rank)) for rank in dims)
    for name in ("rank_dropout", "module_dropout"):
        if getattr(config, name):
            args[name] = str(getattr(config, name))
    return args | ({"rs_lora": "True"} if config.rslora else {})


def _folders(examples: tuple[Example, ...]) -> tuple[FolderFacts, ...]:
    by_folder: dict[tuple[str, int], list[Example]] = {}
    for example in examples:
        by_folder.setdefault((example.image.parent.name, example.repeats), []).append(example)
    return tuple(
        FolderFacts(name, repeats, len(members), _tags(members)) for (name, repeats), members in by_folder.items()
    )


def _tags(examples: list[Example]) -> dict[str, int]:
    return dict(Counter(count_tags(example.caption for example in examples)).most_common(MAX_TAGS))


def _buckets(examples: tuple[Example, ...]) -> tuple[BucketFacts, ...]:
    counted: Counter[tuple[int, int]] = Counter()
    for example in examples:
        counted[example.bucket.width, example.bucket.height] += example.repeats
    return tuple(BucketFacts(width, height, count) for (width, height), count in sorted(counted.items()))


def _mean_aspect_error(examples: tuple[Example, ...]) -> float:
    pairs = [(example.original, example.bucket) for example in examples]
    errors = [abs(picture.width / picture.height - bucket.width / bucket.height) for picture, bucket in pairs]
    return sum(errors) / len(errors)
