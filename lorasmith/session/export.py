"""The LoRA file of a run: what it says about itself, and starting from one that is there already."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from lorasmith.adapters.base import Adapter
from lorasmith.config import AdapterConfig, RunConfig
from lorasmith.data.types import Example
from lorasmith.engine.batches import RunBatches
from lorasmith.engine.optimizers import OPTIMIZERS
from lorasmith.engine.state import TrainState
from lorasmith.errors import ModelError
from lorasmith.exporting.metadata import BucketFacts, ExportFacts, FolderFacts, count_tags
from lorasmith.exporting.write import SAVE_TYPES, write_export
from lorasmith.families.base import ModelFamily
from lorasmith.session.outcome import Notice, notice_of_file

# Readers show the most frequent few; a header of a million tags would only be slow to load.
MAX_TAGS = 1000


def start_from(config: AdapterConfig, family: ModelFamily) -> dict[str, Tensor]:
    """The tensors of --init-from by the adapter's names; none where nothing is named.

    The change they make stays the same: the up matrices are scaled for this run's alpha.

    Raises:
        ModelError: no such file, not a LoRA of this family, or of another rank.
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
    tensors = family.from_kohya(stored)
    for name, tensor in tensors.items():
        rank = tensor.shape[0] if name.endswith(".lora_down.weight") else tensor.shape[1]
        if rank != config.rank:
            raise ModelError("init_from_rank", path=str(path), found=rank, rank=config.rank)
    scale = config.rank / config.resolved_alpha
    return {name: tensor * scale if ".lora_up." in name else tensor for name, tensor in tensors.items()}


def fill_adapter(adapter: Adapter, start: dict[str, Tensor], config: AdapterConfig) -> None:
    """Puts the tensors of --init-from in place; layers the file does not have keep their untouched start.

    Raises:
        ModelError: a layer that this adapter does not have, or another shape: the file is for another base model.
    """
    own = adapter.tensors()
    for name, tensor in start.items():
        if name not in own or own[name].shape != tensor.shape:
            raise ModelError("init_from_other_model", path=config.init_from, key=name)
    adapter.load_tensors({**own, **start})


@dataclass(frozen=True, slots=True)
class Exporter:
    """Writes the adapter of a run under the WebUI's names."""

    config: RunConfig
    family: ModelFamily
    trained: tuple[Example, ...]
    held_out: int  # pictures
    batches: RunBatches
    attempt_began: float  # wall clock, seconds since 1970

    def export(self, state: TrainState, path: Path, *, stop_at: int) -> tuple[Path, str]:
        """Written, checked, and only then under its name; where it lies and the SHA-256 of the file."""
        tensors = self.family.to_kohya(state.adapter.tensors(), alpha=self.config.adapter.resolved_alpha)
        return write_export(
            path,
            tensors,
            self._facts(state, stop_at),
            family=self.family.traits.name,
            components=list(state.adapter.components()),
            precision=SAVE_TYPES[self.config.export.save_precision],
        )

    def notices(self, state: TrainState) -> list[Notice]:
        """What a file of this state does not hold of it."""
        return notice_of_file(state.adapter.tensors(), SAVE_TYPES[self.config.export.save_precision])

    def _facts(self, state: TrainState, stop_at: int) -> ExportFacts:
        config, traits = self.config, self.family.traits
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
            base_model_version=traits.base_model_version,
            architecture=traits.architecture,
            implementation=traits.implementation,
            prediction=self.family.weights.noise.prediction,
            zero_terminal_snr=config.model.zero_terminal_snr,
            clip_skip=config.model.clip_skip,
            rank=config.adapter.rank,
            alpha=config.adapter.resolved_alpha,
            dropout=config.adapter.dropout,
            lr=config.optimizer.lr,
            denoiser_lr=config.optimizer.lr,
            text_encoder_lr=config.optimizer.resolved_text_encoder_lr if config.adapter.train_text_encoder else None,
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
            precision=_resolved_precision(config),
            seed=config.seed,
            folders=_folders(self.trained),
            buckets=_buckets(self.trained),
            mean_aspect_error=_mean_aspect_error(self.trained),
            held_out=self.held_out,
            resolution=config.dataset.resolved_resolution(self.family.weights.resolution),
            trigger_word=config.dataset.trigger_word,
        )


def _resolved_precision(config: RunConfig) -> Literal["fp32", "bf16", "fp16"]:
    precision = config.model.precision
    assert precision != "auto", "resolved when the run was loaded"
    return precision


def _folders(examples: tuple[Example, ...]) -> tuple[FolderFacts, ...]:
    by_folder: dict[tuple[str, int], list[Example]] = {}
    for one in examples:
        by_folder.setdefault((one.image.parent.name, one.repeats), []).append(one)
    return tuple(
        FolderFacts(name, repeats, len(members), _tags(members)) for (name, repeats), members in by_folder.items()
    )


def _tags(examples: list[Example]) -> dict[str, int]:
    return dict(Counter(count_tags(one.caption for one in examples)).most_common(MAX_TAGS))


def _buckets(examples: tuple[Example, ...]) -> tuple[BucketFacts, ...]:
    counted: Counter[tuple[int, int]] = Counter()
    for one in examples:
        counted[one.bucket.width, one.bucket.height] += one.repeats
    return tuple(BucketFacts(width, height, count) for (width, height), count in sorted(counted.items()))


def _mean_aspect_error(examples: tuple[Example, ...]) -> float:
    errors = [abs(one.original.width / one.original.height - one.bucket.width / one.bucket.height) for one in examples]
    return sum(errors) / len(errors)
