"""The composition root: makes everything a run needs from its settings. The only file that sees all the parts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from lorasmith.config import RunConfig, load_run_toml
from lorasmith.config.optimizer_table import optimizer_package
from lorasmith.engine.batches import RunBatches
from lorasmith.engine.cpu import keep_freed_memory, release_freed_memory
from lorasmith.engine.device import DTYPES, Device, choose_device, environment
from lorasmith.engine.execution import EagerExecution, losses_of
from lorasmith.engine.occasions import Occasions
from lorasmith.engine.replayed_schedules import schedule_of
from lorasmith.engine.resident import resident
from lorasmith.engine.step import StepContext
from lorasmith.engine.world import SingleProcess
from lorasmith.errors import ModelError
from lorasmith.evaluation.evaluator import Evaluator
from lorasmith.evaluation.metrics import PictureMetrics
from lorasmith.families import image_encoder, load_family
from lorasmith.families.base import ModelFamily
from lorasmith.families.identity import hash_ahead, weights_sha256
from lorasmith.families.locate import locate_clip
from lorasmith.inputs import check_objective, data_identity, order_of, text_settings
from lorasmith.runs.layout import RunFolder
from lorasmith.session.base_weights import trained_on
from lorasmith.session.checkpoint import check_disk_space
from lorasmith.session.dataset import Dataset, load_dataset, trained_text_encoders
from lorasmith.session.execution import with_execution
from lorasmith.session.export import Exporter
from lorasmith.session.frozen import form_of_frozen, load_frozen, set_checkpointing
from lorasmith.session.initial_state import adapter_dtype, initial_state, read_init_from
from lorasmith.session.layers import check_block_effects
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.meter import Meter, shapes_of
from lorasmith.session.name_tables import check_export_format, other_table
from lorasmith.session.objective import noise_options, objective_of, trained_process
from lorasmith.session.rates import base_lrs
from lorasmith.session.resolve import check_repeatability, resolve_precision, resolved_config
from lorasmith.session.resume import changes_since, check_exactness, restore_state
from lorasmith.session.startup import StartupContext


def load(run: RunFolder, *, attempt: int, stop_at: int, resume: Path | None, startup: StartupContext) -> LoadedRun:
    """Loads the run in the staging folder, from the state `resume` if that is given. Writes nothing but the cache.

    Raises:
        InputError: a mistake that the parent could not find without reading tensors.
        StopRequested: a stop was requested meanwhile.
    """
    startup.beat("loading")
    keep_freed_memory()
    config = load_run_toml(run.staging / run.config.name)
    before = None if resume is None else load_run_toml(run.config)
    device = choose_device(config.machine.device, threads=config.machine.threads)
    family = load_family(trained_on(config), text_settings(config.model))
    _check_fit(config, family, startup, is_new=resume is None)
    precision = resolve_precision(config, before, device, family, startup)
    differing = check_repeatability(device, precision, startup)
    _check_learning(config, device, stop_at, startup)
    start = read_init_from(config.adapter, family.traits.name) if resume is None else {}
    hash_ahead(family.weights)  # those that --base-weights were merged into: the worker did not know them
    dtype = DTYPES[precision]
    dataset = load_dataset(run, config, family, stop_at=stop_at, dtype=dtype, device=device, startup=startup)
    startup.beat("loading")
    trained = trained_text_encoders(config, family)
    models = load_frozen(config.model, family, trained=trained, dtype=dtype, device=device)
    startup.beat("loading")
    sizes = shapes_of(models)
    state = initial_state(config, family, models, start, precision=precision)  # while the base model is being hashed
    config = resolved_config(config, family, device, precision=precision, base_sha256=weights_sha256(family.weights))
    cached, count = resident(dataset.cached, device), config.training.accumulation_steps
    batches = RunBatches(order_of(config, dataset.trained), cached, family, count, state, dataset.varying, device.sent)
    identity, saved_in = data_identity(config, dataset.trained), None
    if resume is not None:
        saved_in = restore_state(resume, state, identity=config.identity(), data_identity=identity)
        state.gradient_checkpointing |= config.training.checkpoints_blocks
    check_disk_space(run, state)
    context = _step_context(config, family, models, batches, dataset, device=device, stop_at=stop_at)
    context.set_checkpointing(state.gradient_checkpointing)
    context, execution = with_execution(config, context, state, batches, startup)
    facts = _environment(config, device, differing, execution=execution)
    return LoadedRun(
        run=run,
        config=config,
        before=before,
        attempt=attempt,
        stop_at=stop_at,
        resumed_from=None if resume is None else state.step,
        state=state,
        context=context,
        batches=batches,
        meter=Meter(partial(family.forward_work, sizes), state.adapter, dataset.cached),
        trained=dataset.trained,
        held_out=dataset.held_out,
        data_identity=identity,
        environment=facts,
        changed_environment="" if saved_in is None else changes_since(saved_in, facts),
        evaluator=_evaluator(run, config, family, dataset, batches, attempt=attempt, stop_at=stop_at),
        exporter=Exporter(config, family, dataset.trained, len(dataset.held_out), batches, attempt_began=time.time()),
        startup=startup,
    )


def _environment(
    config: RunConfig, device: Device, differing: tuple[str, ...] | None, *, execution: str
) -> dict[str, Any]:
    """The facts that bytes depend on besides the resolved settings."""
    precision = config.model.precision
    return environment(
        device,
        precision,
        differing,
        execution=execution,
        base_precision=form_of_frozen(config.model, device, precision=precision),
        optimizer_package=optimizer_package(config.optimizer.name),
    )


def _check_fit(config: RunConfig, family: ModelFamily, startup: StartupContext, *, is_new: bool) -> None:
    """Refuses settings that do not fit the base model: of a pickle, the parent does not know what it is."""
    form = config.export.format
    if form and other_table(family.traits.name, form) is None:
        startup.warn("export_format_same", format=form)
    if is_new:
        check_block_effects(config.adapter, family.traits.name, family.weights.depths)
    check_export_format(config.export.format, config.adapter, family.traits.name)
    check_objective(config.loss, config.noise, family.weights)
    trained_process(family.noise_process(), config.noise)


def _check_learning(config: RunConfig, device: Device, stop_at: int, startup: StartupContext) -> None:
    """Checks the optimizer and the schedule, up to the last step.

    Raises:
        ConfigError: as `schedule_of` and `check_exactness`.
    """
    optimizer = config.optimizer
    schedule_of(config.lr_schedule, [optimizer.lr], lr=optimizer.lr, stop_at=stop_at)(stop_at)
    kind, dtype = config.adapter.kind, adapter_dtype(config.training)
    check_exactness(optimizer, startup, adapter=kind, device=device.torch_device, dtype=dtype)


def _step_context(
    config: RunConfig,
    family: ModelFamily,
    models: Mapping[str, nn.Module],
    batches: RunBatches,
    dataset: Dataset,
    *,
    device: Device,
    stop_at: int,
) -> StepContext:
    release_freed_memory()  # of loading, and of the encoders: what steps free is kept
    process = trained_process(family.noise_process(), config.noise).seen_in(DTYPES[config.model.precision])
    process = process.to(device.torch_device)
    objective = objective_of(config.loss, family.weights.noise.prediction)
    losses = partial(losses_of, family, models, process=process, objective=objective)
    lrs = base_lrs(config.optimizer, batches.state.adapter.groups(), family.traits.text_encoders)
    return StepContext(
        seed=config.seed,
        family=family,
        models=models,
        process=process,
        noise_options=noise_options(config.noise),
        losses=losses,
        execution=EagerExecution(losses, device, batches.state.adapter),
        update_on_device=None,
        world=SingleProcess(),
        batches=batches,
        device=device,
        accumulation_steps=config.training.accumulation_steps,
        max_grad_norm=config.training.max_grad_norm,
        base_lrs=lrs,
        rates_at=schedule_of(config.lr_schedule, list(lrs.values()), lr=config.optimizer.lr, stop_at=stop_at),
        set_checkpointing=partial(set_checkpointing, config.training, family, models),
        picture_names=[example.image.name for example in dataset.trained],
        max_change_norm=config.training.scale_weight_norms,
    )


def _evaluator(
    run: RunFolder,
    config: RunConfig,
    family: ModelFamily,
    dataset: Dataset,
    batches: RunBatches,
    *,
    attempt: int,
    stop_at: int,
) -> Evaluator:
    epochs = config.epochs_between_evaluations(batches.epochs_in(stop_at))
    metrics = PictureMetrics(None, image_encoder("clip"), dataset.trained)
    if dataset.measured_on is not None:
        try:  # now, since downloading it may take longer than a step may
            metrics.clip = locate_clip(config.evaluation.clip_model, base_model=family.weights.path)
        except ModelError as error:
            metrics.failed(error)
    return Evaluator(
        run=run,
        attempt=attempt,
        occasions=Occasions(config.evaluate_every, epochs, batches.completed_epochs),
        settings=config.evaluation,
        measured_on=dataset.measured_on,
        metrics=metrics,
    )
