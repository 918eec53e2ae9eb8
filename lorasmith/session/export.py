"""Exports the adapter of a run as a LoRA file, with metadata about the run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config import AdapterConfig, RunConfig
from lorasmith.config.optimizer_table import KnownOptimizer, known_optimizer
from lorasmith.data.types import Example
from lorasmith.engine.batches import RunBatches
from lorasmith.engine.state import TrainState
from lorasmith.exporting.metadata import ExportFacts
from lorasmith.exporting.name_table import ALPHA, NameTable
from lorasmith.exporting.names import to_file
from lorasmith.exporting.sd_scripts_metadata import DescriptionFacts
from lorasmith.exporting.verify import ExportError, verify
from lorasmith.exporting.write import SAVE_TYPES, write_export
from lorasmith.families.base import ModelFamily
from lorasmith.families.identity import short_hash
from lorasmith.lora_files.reader import read_lora
from lorasmith.lora_files.reader_rules import COMFYUI, DIFFUSERS
from lorasmith.lora_files.readers import readings
from lorasmith.session.captions import caption_facts
from lorasmith.session.layers import by_block
from lorasmith.session.name_tables import name_table, other_table
from lorasmith.session.notices import Notice, export_notices
from lorasmith.session.objective import objective_facts
from lorasmith.session.picture_facts import picture_facts
from lorasmith.session.rates import base_lrs, components_of, lr_network_args


@dataclass(frozen=True, slots=True)
class Exporter:
    """Writes the adapter of a run under the names of files."""

    config: RunConfig
    family: ModelFamily
    trained: tuple[Example, ...]
    held_out: int  # pictures
    batches: RunBatches
    attempt_began: float  # wall clock, seconds since 1970

    @property
    def other_table(self) -> NameTable | None:
        """The names of a second file; None: there is none, or it would have the names of the first."""
        form = self.config.export.format
        return other_table(self.family.traits.name, form) if form else None

    def export(
        self, state: TrainState, path: Path, *, stop_at: int, table: NameTable | None = None
    ) -> tuple[Path, str]:
        """Writes and checks the file, gives it its name, and returns its path and SHA-256.

        Args:
            table: None: the family's own.
        """
        adapter, table = state.adapter, table or name_table(self.family.traits.name)
        settings = {target: layer.settings for target, layer in adapter.layers.items()}
        tensors = to_file(adapter.tensors(), adapter.kind, table, settings)
        return write_export(
            path,
            tensors,
            self._facts(state, stop_at, _written_alphas(tensors, table, settings), table),
            precision=SAVE_TYPES[self.config.export.save_precision],
            kind=adapter.kind,
            check=partial(self._check, adapter, table),
        )

    def _check(self, adapter: FlatAdapter, table: NameTable, path: Path, content: bytes) -> None:
        """Verifies a file, and counts its layers by the rules of the programs that it is for.

        Raises:
            ExportError: one of them would not read every layer that was trained.
        """
        verify(content, kind=adapter.kind, table=table, layers=adapter.layers)
        family, form = self.family.traits.name, self.config.export.format
        programs = (
            {COMFYUI, DIFFUSERS} if table is name_table(family) else {DIFFUSERS if form == "diffusers" else COMFYUI}
        )
        if adapter.kind.name != "lora":  # of which diffusers reads no other
            programs -= {DIFFUSERS}
        layers = (target for target in adapter.layers if target.startswith("denoiser."))
        modules = {table.targets[row].module for target in layers for row in table.pieces.get(target, (target,))}
        for reading in readings(read_lora(path), family):
            if reading.program in programs and (reading.outcome, reading.layers) != ("whole", len(modules)):
                raise ExportError("unread", f"{reading.program}: {reading.layers} / {len(modules)}")

    def notices(self, state: TrainState) -> list[Notice]:
        """Notices of values of this state that its file does not hold."""
        return export_notices(state.adapter.tensors(), SAVE_TYPES[self.config.export.save_precision])

    def _facts(self, state: TrainState, stop_at: int, alphas: Mapping[str, float], table: NameTable) -> ExportFacts:
        config, traits, kind = self.config, self.family.traits, state.adapter.kind
        optimizer = _known(config.optimizer.name)
        lrs = base_lrs(config.optimizer, components_of(state.adapter.groups()), traits.text_encoders)
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
            network_args=self._network_args(state, alphas),
            rank=config.adapter.rank,
            alpha=_alpha_of_all(alphas, table),
            dropout=config.adapter.dropout,
            lr=config.optimizer.lr,
            denoiser_lr=lrs.get("denoiser"),
            text_encoder_lr=tuple(rate for name, rate in lrs.items() if name != "denoiser"),
            optimizer=optimizer.path.replace(":", "."),
            optimizer_options={**optimizer.options, **config.optimizer.options},
            lr_schedule=config.lr_schedule.shape,
            lr_warmup_steps=config.lr_schedule.warmup_steps,
            target_steps=stop_at,
            epochs=self.batches.epochs_in(stop_at),
            micro_batches_per_epoch=per_epoch,
            accumulation_steps=config.training.accumulation_steps,
            batch_size=config.training.batch_size,
            gradient_checkpointing=state.gradient_checkpointing or config.training.gradient_checkpointing != "none",
            fp8_base=config.model.base_precision == "fp8",
            max_grad_norm=config.training.max_grad_norm,
            max_change_norm=config.training.scale_weight_norms,
            precision=config.model.precision,
            seed=config.seed,
            objective=objective_facts(config.loss, config.noise, self.family.noise_process()),
            captions=caption_facts(config),
            pictures=picture_facts(
                config, self.trained, held_out=self.held_out, base_resolution=self.family.weights.resolution
            ),
            trigger_word=config.dataset.trigger_word,
            description=self._description(),
        )

    def _network_args(self, state: TrainState, alphas: Mapping[str, float]) -> dict[str, str]:
        config, adapter, table = self.config, state.adapter, name_table(self.family.traits.name)
        return {
            **adapter.kind.network_args,
            **_network_args(config.adapter, adapter, table, alphas),
            **lr_network_args(config.optimizer, table.targets, adapter.layers),
        }

    def _description(self) -> DescriptionFacts:
        config, weights = self.config.export, self.family.weights.path
        epochs = self.config.epochs_between_evaluations(1)  # with --save-n-epoch-ratio it depends on the length
        return DescriptionFacts(
            comment=config.training_comment,
            model_spec=config.model_spec,
            is_minimal=config.no_metadata,
            has_all_keys=config.naming != "own",
            base_model_short_hash=short_hash(weights) if weights.is_file() else "",
            validation=(self.config.evaluate_every, epochs),
        )


def _known(optimizer: str) -> KnownOptimizer:
    found = known_optimizer(optimizer)
    assert found is not None, "a name that the start refuses"
    return found


def _vae_short_hash(family: ModelFamily) -> str:
    vae = family.weights.replaced.get("vae")
    return "" if vae is None else short_hash(vae.paths[0])


def _written_alphas(
    tensors: Mapping[str, Tensor], table: NameTable, settings: Mapping[str, LayerSettings]
) -> dict[str, float]:
    """The alphas by which readers of the file divide the ranks, by target: those in the file, with the fewest digits
    that float32 comes back from (0.1), or the ranks where it has none."""
    if not table.form.has_alphas:
        return {target: float(own.rank) for target, own in settings.items()}
    alphas = {
        name.removesuffix(f".{ALPHA}"): float(str(tensor.numpy()[()]))
        for name, tensor in tensors.items()
        if name.endswith(f".{ALPHA}")
    }
    return {row.target: alphas[row.module] for row in table.targets.values() if row.module in alphas}


def _alpha_of_all(alphas: Mapping[str, float], table: NameTable) -> float:
    """The alpha that stands for the file: the commonest of the denoiser's layers, convolutions with neighbours aside;
    of all layers where there are no others."""
    rows = [row for row in table.targets.values() if row.target in alphas]
    ranked = max((row.component == "denoiser", not row.layer.has_neighbours) for row in rows)
    kept = [row for row in rows if (row.component == "denoiser", not row.layer.has_neighbours) == ranked]
    return Counter(sorted(alphas[row.target] for row in kept)).most_common(1)[0][0]


def _takes_alpha(adapter: FlatAdapter) -> bool:
    """Whether an alpha scales any layer: readers ignore that of a LoKr of two whole matrices."""
    kind = adapter.kind
    for spec, settings in adapter.layers.values():
        shapes, twice = kind.shapes(spec, settings), replace(settings, alpha=2 * settings.alpha)
        if kind.file_alpha(shapes, settings) != kind.file_alpha(shapes, twice):
            return True
    return False


def _network_args(
    config: AdapterConfig, adapter: FlatAdapter, table: NameTable, alphas: Mapping[str, float]
) -> dict[str, str]:
    """The settings of layers under the names, and as the texts, that sd-scripts and LyCORIS write; `targets` and
    `block_rank` are this program's own."""
    args: dict[str, str] = {}
    of_convolutions = [alphas[name] for name, own in adapter.layers.items() if own.spec.has_neighbours]
    if of_convolutions:
        alpha = Counter(sorted(of_convolutions)).most_common(1)[0][0]
        args |= {"conv_dim": str(config.resolved_conv_rank), "conv_alpha": str(alpha)}
    if config.targets:
        args["targets"] = config.targets
    if config.block_ranks:
        args["block_rank"] = ",".join(f"{block}={rank}" for block, rank in config.block_ranks.items())
        pointwise = {name: own.settings.rank for name, own in adapter.layers.items() if not own.spec.has_neighbours}
        dims = by_block(table.targets, pointwise, untrained=0)
        if dims is not None and any(dims):
            written = {name: alphas[name] for name in pointwise}
            of_blocks = by_block(table.targets, written, untrained=_alpha_of_all(alphas, table))
            args["block_dims"] = ",".join(map(str, dims))
            args |= {} if of_blocks is None else {"block_alphas": ",".join(map(str, of_blocks))}
    for name in ("rank_dropout", "module_dropout"):
        if getattr(config, name):
            args[name] = str(getattr(config, name))
    return args | ({"rs_lora": "True"} if config.rslora and _takes_alpha(adapter) else {})
