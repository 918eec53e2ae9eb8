"""The dataset of a run: scanned, split and encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch

from lorasmith.config import RunConfig
from lorasmith.data.cache import EncoderCache
from lorasmith.data.cache_folder import cache_folder
from lorasmith.data.types import CachedExample, Example, Inputs, VaryingInputs
from lorasmith.engine.device import Device
from lorasmith.engine.encode import Encoding, encoded_examples, live_captions, live_pictures
from lorasmith.evaluation.choose import (
    NOTHING_CHOSEN,
    Chosen,
    EvaluationSet,
    Sides,
    choose,
    evaluation_set,
    texts_of,
)
from lorasmith.families.base import ModelFamily
from lorasmith.inputs import bucket_step, data_folders, notices, scan_for, split_examples
from lorasmith.runs.layout import RunFolder
from lorasmith.session.captions import caption_plan
from lorasmith.session.layers import chosen_layers, published_layers
from lorasmith.session.notices import caption_notices, mask_notices
from lorasmith.session.objective import objective_identity
from lorasmith.session.pictures import picture_plan
from lorasmith.session.startup import StartupContext


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of a run."""

    trained: tuple[Example, ...]
    held_out: tuple[Example, ...]
    cached: list[CachedExample]  # encoded, in the order of `trained`
    measured_on: EvaluationSet | None  # None: the run is not evaluated
    varying: tuple[VaryingInputs, ...]  # inputs of the trained examples that differ from use to use


def load_dataset(
    run: RunFolder,
    config: RunConfig,
    family: ModelFamily,
    *,
    stop_at: int,
    dtype: torch.dtype,
    device: Device,
    startup: StartupContext,
) -> Dataset:
    """Scans the pictures, warns of what was found, and encodes what the cache does not hold.

    Raises:
        InputError: the pictures or captions cannot be used.
        StopRequested: a stop was requested meanwhile.
    """
    seen = run.staged_pictures.read_bytes() if run.staged_pictures.exists() else b""  # by the parent's scan
    found = scan_for(config, family.weights, check_pixels=False, seen=seen)
    for code, fields in [*notices(config, found, stop_at), *caption_notices(config, family, found.examples)]:
        startup.warn(code, **fields)
    trained, held_out = split_examples(config, found)
    encoding = Encoding(
        family,
        EncoderCache(cache_folder(data_folders(config)[0])),
        trained=trained_text_encoders(config, family),
        dtype=dtype,
        device=device,
        tile=config.model.vae_tile_size,
        text_form=config.model.text_encoder_precision,
    )
    encode = partial(
        encoded_examples,
        encoding,
        regularisation_weight=_regularisation_weight(config, trained),
        damaged=startup.cache_damaged,
        progress=startup.cached,
    )
    chosen = _chosen(config, trained, held_out)
    plan, pictures = caption_plan(config, trained, stop_at=stop_at), picture_plan(config, trained)
    examples = list(dict.fromkeys([*trained, *chosen.all, *pictures.beforehand]))
    prompts = texts_of(config.evaluation) if chosen.sampled else []
    cached, texts = encode(examples, [*prompts, *plan.beforehand])
    by_example = dict(zip(examples, cached, strict=True))
    varying = (
        *plan.inputs(config.seed, texts, partial(live_captions, encoding)),
        *pictures.inputs(config.seed, by_example, family.example_inputs, partial(live_pictures, encoding)),
    )
    of_trained = [by_example[example] for example in trained]
    for code, fields in mask_notices(trained, of_trained):
        startup.warn(code, **fields)
    if not chosen.sampled:
        return Dataset(trained, held_out, of_trained, None, varying)
    measured_on = _measured_on(config, family, chosen, by_example, texts)
    return Dataset(trained, held_out, of_trained, measured_on, varying)


def trained_text_encoders(config: RunConfig, family: ModelFamily) -> tuple[str, ...]:
    """The names of the text encoders that have a layer that is trained: their captions are not cached."""
    if not config.adapter.trains_text_encoder:
        return ()
    known = published_layers(family.traits.name, with_text_encoders=True)
    chosen = chosen_layers(config.adapter, family.traits.name, known)
    components = {name.partition(".")[0] for name in chosen}
    return tuple(name for name in family.traits.text_encoders if name in components)


def _measured_on(
    config: RunConfig,
    family: ModelFamily,
    chosen: Chosen,
    cached: Mapping[Example, CachedExample],
    texts: Mapping[str, Inputs],
) -> EvaluationSet:
    """The examples and samples of every evaluation."""
    step = bucket_step(config.dataset, family.weights)
    side = config.dataset.resolved_resolution(family.weights.resolution) // step * step
    measured_on = evaluation_set(
        chosen,
        cached,
        texts,
        family.example_inputs,
        settings=config.evaluation,
        sides=Sides(side, family.weights.size_multiple if family.weights.noise.prediction == "flow" else 1),
        seed=config.seed,
    )
    return replace(measured_on, objective=objective_identity(config.loss, config.noise))


def _regularisation_weight(config: RunConfig, trained: tuple[Example, ...]) -> float:
    """The factor of the loss of regularisation pictures; 1 where there are none."""
    return config.loss.prior_loss_weight if any(example.is_regularisation for example in trained) else 1.0


def _chosen(config: RunConfig, trained: tuple[Example, ...], held_out: tuple[Example, ...]) -> Chosen:
    """The examples that the run is evaluated on."""
    if not config.is_evaluated:
        return NOTHING_CHOSEN
    holds_out = bool(config.dataset.held_out)
    return choose(trained, held_out, count=config.evaluation.examples, seed=config.seed, holds_out=holds_out)
