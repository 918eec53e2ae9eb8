"""The composition root: a config becomes context. The only file that sees all of them.

`load` makes everything and writes nothing but the cache; `begin` takes the run's place on disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config import RunConfig, load_run_toml
from lorasmith.data.cache import EncoderCache
from lorasmith.data.cache_folder import cache_folder
from lorasmith.data.types import CachedExample, Example
from lorasmith.diffusion.draw import NoiseOptions
from lorasmith.diffusion.objective import MSE
from lorasmith.engine.batches import RunBatches
from lorasmith.engine.cpu import keep_freed_memory, speed_up_frozen
from lorasmith.engine.device import DTYPES, Device, choose_device, environment
from lorasmith.engine.encode import Encoding, encoded_examples
from lorasmith.engine.execution import EagerExecution, losses_of
from lorasmith.engine.lr_schedules import lr_factor_at
from lorasmith.engine.optimizers import build_optimizer, check_optimizer
from lorasmith.engine.state import LossScaler, Origin, TrainState
from lorasmith.engine.step import StepContext
from lorasmith.engine.world import SingleProcess
from lorasmith.errors import ModelError, ResumeError
from lorasmith.evaluation.choose import (
    EMPTY_CAPTION,
    NOTHING_CHOSEN,
    Chosen,
    EvaluationSet,
    choose,
    evaluation_set,
)
from lorasmith.evaluation.evaluator import Evaluator
from lorasmith.evaluation.metrics import PictureMetrics
from lorasmith.families import image_encoder, load_family
from lorasmith.families.base import ModelFamily
from lorasmith.families.identity import weights_sha256
from lorasmith.families.locate import locate_clip
from lorasmith.families.weights import TextSettings
from lorasmith.inputs import base_weights, data_identity, notices, order_of, scan_for, split_examples
from lorasmith.runs.events import Event, Warned
from lorasmith.runs.layout import RunFolder
from lorasmith.session.checkpoint import check_room, restore_state
from lorasmith.session.export import Exporter
from lorasmith.session.init_from import fill_adapter, layer_settings, read_init_from
from lorasmith.session.loaded import LoadedRun
from lorasmith.session.precision import checked_bits, say_device
from lorasmith.session.resume_check import say_if_not_exact
from lorasmith.session.startup import StartupContext
from lorasmith.session.unseen_words import unseen_words


def load(run: RunFolder, *, attempt: int, stop_at: int, resume: Path | None, startup: StartupContext) -> LoadedRun:
    """Reads, encodes, attaches, restores. Writes nothing but the cache.

    Raises:
        InputError: what the parent could not see without reading tensors.
        StopRequested: a stop was requested meanwhile.
    """
    startup.beat("loading")
    keep_freed_memory()
    config = load_run_toml(run.staging / run.config.name)
    device = choose_device(config.machine.device, threads=config.machine.threads)
    family = load_family(base_weights(config), TextSettings(clip_skip=config.model.clip_skip))
    before = None if resume is None else load_run_toml(run.config)
    precision = say_device(config.model.precision, device, family, startup, kept=_kept(config, before))
    differing = checked_bits(device, precision, startup)
    check_optimizer(config.optimizer.name, config.optimizer.options)
    say_if_not_exact(config.optimizer, startup, adapter=config.adapter.kind, where=device.torch_device)
    start = read_init_from(config.adapter, family.traits.name) if resume is None else {}
    with ThreadPoolExecutor(max_workers=1) as pool:  # hashing gigabytes leaves the interpreter free to load
        hashing = pool.submit(weights_sha256, family.weights)
        trained, held_out = _examples(config, family, stop_at, startup, seen=_seen(run))
        chosen = _chosen(config, trained, held_out)
        cached, measured_on = _encoded(config, family, trained, chosen, startup, precision=precision, device=device)
        startup.beat("loading")
        trained_text = _trained_text_encoders(config, family)
        models = family.load_models(trained=trained_text, dtype=DTYPES[precision], device=device.torch_device)
        startup.beat("loading")
        config = _resolved(config, family, device, precision=precision, hashing=hashing)
    state = _fresh_state(config, _adapter(config, family, models, start), precision)
    batches = RunBatches(order_of(config, trained), cached, family, config.training.accumulation_steps, state)
    marks, data = environment(device, precision, differing), data_identity(config, trained)
    warnings: tuple[Event, ...] = ()
    if resume is not None:
        changed = _restored(resume, state, config=config, data=data, marks=marks)
        if changed:
            now = time.time()
            warnings = (Warned(attempt=attempt, time=now, code="fingerprint_changed", fields={"changed": changed}),)
    check_room(run, state)
    context = _step_context(config, family, models, device=device, batches=batches, stop_at=stop_at, trained=trained)
    context.set_checkpointing(state.gradient_checkpointing)
    startup.beat("loading")
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
        trained=trained,
        held_out=held_out,
        data_identity=data,
        fingerprint=marks,
        warnings=warnings,
        evaluator=_evaluator(config, run, family, measured_on, trained=trained, startup=startup),
        exporter=Exporter(config, family, trained, len(held_out), batches, attempt_began=time.time()),
        startup=startup,
    )


def _kept(config: RunConfig, before: RunConfig | None) -> set[str]:
    """Which of "precision" and "device" are those that the run had before this start."""
    if before is None:
        return set()
    same = {
        "precision": config.model.precision == before.model.precision,
        "device": config.machine.device == before.machine.device,
    }
    return {name for name, is_same in same.items() if is_same}


def _seen(run: RunFolder) -> bytes:
    """What the supervisor left of its scan; b"" where it left nothing."""
    return run.staged_pictures.read_bytes() if run.staged_pictures.exists() else b""


def _examples(
    config: RunConfig, family: ModelFamily, stop_at: int, startup: StartupContext, *, seen: bytes
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """What is trained on and what is held out; what a person should know of the dataset becomes warnings."""
    found = scan_for(config, family.weights, check_pixels=False, seen=seen)
    for code, fields in [*notices(config, found, stop_at), *unseen_words(config, family, found.examples)]:
        startup.warn(code, **fields)
    return split_examples(config, found)


def _chosen(config: RunConfig, trained: tuple[Example, ...], held_out: tuple[Example, ...]) -> Chosen:
    if config.evaluate_every == 0:
        return NOTHING_CHOSEN
    holds_out = bool(config.dataset.held_out)
    return choose(trained, held_out, count=config.evaluation.examples, seed=config.seed, holds_out=holds_out)


def _encoded(
    config: RunConfig,
    family: ModelFamily,
    trained: tuple[Example, ...],
    chosen: Chosen,
    startup: StartupContext,
    *,
    precision: str,
    device: Device,
) -> tuple[list[CachedExample], EvaluationSet | None]:
    """What is trained on, and what is measured on; None where nothing is."""
    encoding = Encoding(
        family,
        EncoderCache(cache_folder(Path(config.dataset.folder))),
        trained=_trained_text_encoders(config, family),
        dtype=DTYPES[precision],
        device=device,
    )
    encode = partial(encoded_examples, encoding, damaged=startup.cache_damaged, progress=startup.cached)
    if not chosen.sampled:
        return encode(trained)[0], None
    known = set(trained)
    examples = [*trained, *(one for one in chosen.all if one not in known)]
    captions = [EMPTY_CAPTION, *config.evaluation.sample_prompts]
    cached, texts = encode(examples, captions)
    resolution, multiple = config.dataset.resolved_resolution(family.weights.resolution), family.weights.size_multiple
    measured_on = evaluation_set(
        chosen,
        dict(zip(examples, cached, strict=True)),
        texts,
        family.example_inputs,
        settings=config.evaluation,
        side=max(multiple, resolution // multiple * multiple),
        seed=config.seed,
    )
    return cached[: len(trained)], measured_on


def _trained_text_encoders(config: RunConfig, family: ModelFamily) -> tuple[str, ...]:
    return family.traits.text_encoders if config.adapter.train_text_encoder else ()


def _evaluator(
    config: RunConfig,
    run: RunFolder,
    family: ModelFamily,
    measured_on: EvaluationSet | None,
    *,
    trained: tuple[Example, ...],
    startup: StartupContext,
) -> Evaluator:
    metrics = PictureMetrics(None, image_encoder("clip"), trained)
    if measured_on is not None:
        try:  # here, as fetching it may take longer than a step may
            metrics.clip = locate_clip(config.evaluation.clip_model, base_model=family.weights.path)
        except ModelError as error:
            metrics.failed(error)
    return Evaluator(
        run=run,
        attempt=startup.attempt,
        every=config.evaluate_every,
        settings=config.evaluation,
        measured_on=measured_on,
        metrics=metrics,
    )


def _resolved(
    config: RunConfig, family: ModelFamily, device: Device, *, precision: str, hashing: Future[str]
) -> RunConfig:
    """What `auto` has become, and what was read from the weights.

    Raises:
        ResumeError: the base model is not the one the run was made with.
    """
    sha256 = hashing.result()
    if config.model.base_sha256 not in ("", sha256):
        path = str(family.weights.path)
        raise ResumeError("base_model_changed", path=path, before=config.model.base_sha256[:12], now=sha256[:12])
    return config.with_values(
        {
            ("model", "family"): family.weights.family,
            ("model", "base_sha256"): sha256,
            ("model", "prediction"): family.weights.noise.prediction,
            ("model", "zero_terminal_snr"): family.weights.noise.zero_terminal_snr,
            ("model", "precision"): precision,
            ("machine", "threads"): device.threads,
        }
    )


def _adapter(
    config: RunConfig, family: ModelFamily, models: Mapping[str, nn.Module], start: dict[str, Tensor]
) -> FlatAdapter:
    """Attached, holding what it starts from; then the frozen layers are made fast."""
    targets = family.target_modules(models)
    settings = dict.fromkeys((target.name for target in targets), layer_settings(config.adapter))
    adapter = FlatAdapter.attach(adapter_kind(config.adapter.kind), targets, settings, seed=config.seed)
    adapter.set_training(True)
    if start:
        fill_adapter(adapter, start, config.adapter.init_from)
    for model in models.values():
        speed_up_frozen(model)
    return adapter


def _base_lrs(config: RunConfig, adapter: FlatAdapter) -> dict[str, float]:
    denoiser, text = config.optimizer.lr, config.optimizer.resolved_text_encoder_lr
    return {name: denoiser if name == "denoiser" else text for name in adapter.groups()}


def _fresh_state(config: RunConfig, adapter: FlatAdapter, precision: str) -> TrainState:
    return TrainState(
        step=0,
        adapter=adapter,
        optimizer=build_optimizer(
            config.optimizer.name,
            adapter,
            base_lrs=_base_lrs(config, adapter),
            options=config.optimizer.options,
        ),
        scaler=LossScaler() if precision == "fp16" else None,
        origin=Origin(step=0, epoch=1),
        gradient_checkpointing=config.training.gradient_checkpointing,
    )


def _restored(loaded_from: Path, state: TrainState, *, config: RunConfig, data: str, marks: Mapping[str, Any]) -> str:
    """Loads the state; what of the fingerprint is no longer the same, "" where nothing is."""
    changed = restore_state(loaded_from, state, identity=config.identity(), data_identity=data, fingerprint=marks)
    state.gradient_checkpointing |= config.training.gradient_checkpointing
    return ", ".join(f"{name}: {before} -> {now}" for name, (before, now) in changed.items())


def _step_context(
    config: RunConfig,
    family: ModelFamily,
    models: Mapping[str, nn.Module],
    *,
    device: Device,
    batches: RunBatches,
    stop_at: int,
    trained: tuple[Example, ...],
) -> StepContext:
    process = family.noise_process().to(device.torch_device)
    losses = partial(losses_of, family, models, process=process, objective=MSE)
    return StepContext(
        seed=config.seed,
        family=family,
        models=models,
        process=process,
        noise_options=NoiseOptions(),
        losses=losses,
        execution=EagerExecution(losses, device),
        world=SingleProcess(),
        batches=batches,
        device=device,
        accumulation_steps=config.training.accumulation_steps,
        max_grad_norm=config.training.max_grad_norm,
        base_lrs=_base_lrs(config, batches.state.adapter),
        lr_factor_at=partial(
            lr_factor_at,
            shape=config.lr_schedule.shape,
            warmup_steps=config.lr_schedule.warmup_steps,
            horizon_steps=config.lr_schedule.resolved_horizon(stop_at),
        ),
        set_checkpointing=partial(family.set_checkpointing, models),
        picture_names=[one.image.name for one in trained],
    )
