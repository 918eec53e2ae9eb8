"""Finds what a config names on disk: base model and pictures. Needs no torch, so that the parent checks before the
worker does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lorasmith.config import DatasetConfig, ModelConfig, RunConfig, Subset
from lorasmith.config.optimizer_table import known_optimizer, uses_relative_steps
from lorasmith.config.sample_prompts import sample_prompt
from lorasmith.config.sections import LossConfig, NoiseConfig
from lorasmith.config.subsets import unused_picture_options
from lorasmith.data.augmentation import face_of
from lorasmith.data.buckets import Cutting
from lorasmith.data.files import shown
from lorasmith.data.findings import Finding, finding
from lorasmith.data.order import Order, Pool
from lorasmith.data.regularisation import unused_regularisation, with_dealt_repeats
from lorasmith.data.seen import decoded
from lorasmith.data.types import Example
from lorasmith.errors import ConfigError, DatasetError
from lorasmith.families.locate import expanded, locate
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import BaseWeights, NoiseRequest, PartFiles, TextSettings
from lorasmith.lora_files.training_adapter import with_training_adapter

if TYPE_CHECKING:
    from lorasmith.data.folder import PictureFolder, Scan

T = TypeVar("T")
USUAL_TOKENS = 75


def base_weights(config: RunConfig, here: Path | None = None) -> BaseWeights:
    """Finds and recognizes the base model.

    `here`: the folder where relative paths start, while a new run is planned. Without it the config is that of a run,
    whose paths are absolute: a folder that has come to lie under the name of a model (the output folder itself) does
    not count.

    Raises:
        ConfigError: no base model is named.
        ModelError: nothing has that name, or it is a model that this program does not know; as `recognize` and
            `with_training_adapter`.
    """
    if not config.model.base_model:
        raise ConfigError("base_model_unnamed")
    model, folder = config.model, here or Path()
    asked = NoiseRequest(model.prediction, model.zero_terminal_snr)
    vae = folder / expanded(model.vae) if model.vae else None
    parts = PartFiles(vae, tuple(folder / expanded(path) for path in model.text_encoder))
    weights = recognize(locate(model.base_model, near=here), asked=asked, parts=parts, form=model.base_form)
    return with_training_adapter(weights, folder / expanded(model.training_adapter) if model.training_adapter else None)


def text_settings(model: ModelConfig) -> TextSettings:
    """The settings by which the text encoders read captions; the cache of older runs stays valid."""
    tokens = None if model.max_token_length == USUAL_TOKENS else model.max_token_length
    return TextSettings(clip_skip=model.clip_skip, max_tokens=tokens, has_weights=model.weighted_captions)


def data_folders(config: RunConfig) -> tuple[Path, ...]:
    """The folders of pictures, in the order of their subsets."""
    return tuple(dict.fromkeys(Path(subset.folder) for subset in config.subsets()))


def check_objective(loss: LossConfig, noise_config: NoiseConfig, weights: BaseWeights) -> None:
    """Refuses weightings of the loss and noise levels that do not fit what the base model predicts.

    Raises:
        ConfigError: `option_of_flow`; `loss_needs_prediction`; `loss_not_of_flow`; `loss_infinite`, the weight would be
            infinite where there is only noise.
    """
    noise = weights.noise
    of_flow = noise_config.flow_options + (("flow-weighting",) if loss.flow_weighting != "none" else ())
    if of_flow and noise.prediction != "flow":
        raise ConfigError("option_of_flow", option=of_flow[0])
    needed = {"scale-v-pred-loss-like-noise-pred": "v_prediction", "v-pred-like-loss": "epsilon"}
    for name in loss.weightings:
        if noise.prediction == "flow":
            raise ConfigError("loss_not_of_flow", option=name)
        if needed.get(name, noise.prediction) != noise.prediction:
            raise ConfigError("loss_needs_prediction", option=name, needed=needed[name], prediction=noise.prediction)
        if name in ("v-pred-like-loss", "debiased-estimation-loss") and (
            noise.zero_terminal_snr and noise.prediction == "epsilon"
        ):
            raise ConfigError("loss_infinite", option=name)


def bucket_step(dataset: DatasetConfig, weights: BaseWeights) -> int:
    """Pixels that both sides of every bucket are multiples of.

    Raises:
        ConfigError: `bucket_step`, the step that is asked for is none for this model, or over the resolution.
    """
    step = dataset.bucket_step or weights.bucket_step
    resolution = min(dataset.resolved_size(weights.resolution))
    if step % weights.size_multiple or step > resolution:
        raise ConfigError("bucket_step", step=step, multiple=weights.size_multiple, resolution=resolution)
    return step


def cutting_of(dataset: DatasetConfig, weights: BaseWeights) -> Cutting:
    """The cut of the pictures of a subset for these weights.

    Raises:
        ConfigError: `bucket_step`; `bucket_limit`, a limit of buckets beyond the resolution.
    """
    width, height = dataset.resolved_size(weights.resolution)
    least, most = dataset.min_bucket_reso, dataset.max_bucket_reso
    if dataset.enable_bucket and not dataset.bucket_no_upscale:
        if least is not None and least > min(width, height):
            raise ConfigError("bucket_limit", option="min-bucket-reso", limit=least, resolution=min(width, height))
        if most is not None and most < max(width, height):
            raise ConfigError("bucket_limit", option="max-bucket-reso", limit=most, resolution=max(width, height))
    return Cutting(
        width,
        bucket_step(dataset, weights),
        height,
        rule=dataset.bucket_rule,
        least=least,
        most=most,
        never_enlarges=dataset.bucket_no_upscale,
        has_buckets=dataset.enable_bucket,
        resampling=dataset.resize_interpolation,
    )


def scan_for(config: RunConfig, weights: BaseWeights, *, check_pixels: bool, seen: bytes = b"") -> Scan:
    """Scans the pictures of every subset of this config, cut for these weights; `seen` holds what an earlier scan read,
    as `data.seen` encodes it.

    Raises:
        DatasetError: as `scan`; `dataset_problems` lists those of all subsets.
    """
    from lorasmith.data.folder import Scan, scan  # imports PIL, for which an earlier error need not wait
    from lorasmith.data.masks import with_masks

    known = decoded(seen) if seen else {}
    scans: list[Scan] = []
    problems: list[dict[str, Any]] = []
    for subset in config.subsets():
        try:
            found = scan(
                _source(subset),
                cutting_of(subset.dataset, weights),
                trigger_word=subset.dataset.trigger_word,
                skip_bad=config.dataset.skip_bad_pictures,
                check_pixels=check_pixels,
                seen=known,
            )
            loss = subset.config.loss
            found = with_masks(
                found,
                Path(subset.folder),
                Path(loss.mask_folder) if loss.has_mask_folder else None,
                takes_alpha=loss.alpha_mask,
                skip_bad=config.dataset.skip_bad_pictures,
                check_pixels=check_pixels,
                seen=known,
            )
        except DatasetError as error:
            if error.code != "dataset_problems":
                raise
            problems += [problem for problem in error.fields["problems"] if problem not in problems]
            continue
        scans.append(found)
        known = {**known, **found.seen}
    if problems:
        raise DatasetError("dataset_problems", count=len(problems), problems=problems)
    return Scan(
        examples=tuple(example for found in scans for example in found.examples),
        problems=_distinct(problem for found in scans for problem in found.problems),
        findings=_distinct(noticed for found in scans for noticed in found.findings),
        seen=known,
    )


def repeats_in(config: RunConfig, here: Path) -> tuple[int, ...]:
    """The repeats of each picture to learn from, each folder once, by names alone: nothing is opened, so a bad picture
    counts too.

    Raises:
        DatasetError: as `scan`, where there is no folder or nothing in it is named like a picture.
    """
    from lorasmith.data import folder

    learned = [subset for subset in config.subsets() if not subset.is_regularisation]
    sources = {subset.folder: _source(subset, here) for subset in learned}
    return tuple(repeats for source in sources.values() for repeats in folder.repeats_in(source))


def _source(subset: Subset, here: Path = Path()) -> PictureFolder:
    from lorasmith.data.folder import PictureFolder

    return PictureFolder(
        here / subset.folder,
        subset.repeats,
        subset.class_words,
        subset.number,
        subset.is_regularisation,
        subset.config.captions,
        here / subset.dataset.metadata_file if subset.dataset.metadata_file else None,
    )


def _distinct(items: Iterable[T]) -> tuple[T, ...]:
    """The items in order, each once: a folder may be in two subsets."""
    return tuple({repr(item): item for item in items}.values())


def notices(config: RunConfig, found: Scan, stop_at: int) -> list[tuple[str, dict[str, Any]]]:
    """Notices about a start, as (code, fields): the findings of the dataset first, then pictures that are left out and
    settings that may not do what is expected. The same in the parent and in the worker."""
    noted = [(noticed.code, noticed.fields) for noticed in (*found.findings, *_findings_of_settings(config, found))]
    noted += unused_picture_options(config.subsets())
    if config.dataset.hold_out and not config.dataset.held_out:
        different = len({example.image_sha256 for example in found.examples})
        noted.append(("hold_out_none", {"hold_out": config.dataset.hold_out, "pictures": different}))
    for problem in found.problems:
        fields = {"path": shown(problem.path), "reason": problem.reason, "fields": problem.fields}
        noted.append(("picture_skipped", fields))
    flags = [flag for line in config.evaluation.sample_prompts for flag in sample_prompt(line).ignored]
    if flags:
        noted.append(("sample_flags_unused", {"flags": ", ".join(dict.fromkeys(flags))}))
    horizon = config.lr_schedule.horizon_steps
    if horizon is not None and stop_at > horizon and config.lr_schedule.shape != "constant":
        noted.append(("lr_horizon_passed", {"horizon": horizon, "target": stop_at}))
    if config.adapter.kind == "lokr" and config.adapter.resolved_alpha != config.adapter.rank:
        noted.append(("lokr_alpha", {"alpha": config.adapter.resolved_alpha}))
    if config.adapter.kind == "dora":
        noted.append(("dora_readers", {}))
    noted += _notices_of_rates(config)
    noted += [("option_unused", unused._asdict()) for unused in config.unused_options]
    if config.loss.prior_loss_weight != 1 and not any(example.is_regularisation for example in found.examples):
        noted.append(("option_unused", {"option": "prior-loss-weight", "needed": "--reg-data-dir"}))
    if len(config.loss.weightings) > 1:
        noted.append(("weightings_multiply", {"options": [f"--{name}" for name in config.loss.weightings]}))
    if config.loss.v_pred_like:
        noted.append(("v_pred_like_loss", {}))
    return noted


def _notices_of_rates(config: RunConfig) -> list[tuple[str, dict[str, Any]]]:
    name, lr, known = config.optimizer.name, config.optimizer.lr, known_optimizer(config.optimizer.name)
    noted: list[tuple[str, dict[str, Any]]] = []
    if known is not None and known.finds_rate and lr < 0.1:
        noted.append(("prodigy_lr", {"lr": lr}))
    if uses_relative_steps(name, config.optimizer.options):
        noted.append(("lr_relative", {"optimizer": name}))
    return noted


def _findings_of_settings(config: RunConfig, found: Scan) -> list[Finding]:
    """Findings about pictures that settings leave without use or effect."""
    subsets = config.subsets()
    roots = [Path(subset.folder) for subset in subsets]
    unused: list[Example] = []
    if any(example.is_regularisation for example in found.examples):
        held_out = config.dataset.held_out  # a regularisation picture may be equal to one of these
        unused = [
            example
            for example in unused_regularisation(found.examples, split_examples(config, found)[0])
            if example.image_sha256 not in held_out
        ]
    faceless = [
        example
        for example in found.examples
        if example.is_unbucketed and subsets[example.subset].config.augmentation.face_crop and face_of(example) is None
    ]
    return [
        *finding("reg_unused", [example.image.relative_to(roots[example.subset]) for example in unused]),
        *finding("faces_unnamed", [example.image.relative_to(roots[example.subset]) for example in faceless]),
    ]


def split_examples(config: RunConfig, found: Scan) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """The examples that are trained on, and those that were held out at --new, identified by their bytes.

    Regularisation pictures are dealt out to the trained pictures of their group; those that none are left for are not
    trained on.
    """
    held_out = frozenset(config.dataset.held_out)
    trained = [example for example in found.examples if example.image_sha256 not in held_out]
    if trained and all(example.is_regularisation for example in trained):
        raise ConfigError("reg_alone")
    if not trained:
        raise ConfigError("hold_out_too_many", hold_out=len(held_out), pictures=len(found.examples))
    apart = (
        example for example in found.examples if example.image_sha256 in held_out and not example.is_regularisation
    )
    return with_dealt_repeats(trained, [subset.group for subset in config.subsets()]), tuple(apart)


def order_of(config: RunConfig, trained: tuple[Example, ...]) -> Order:
    """The order in which examples meet in micro-batches."""
    places = [(example.bucket, example.repeats) for example in trained]
    return Order(places, batch_size=config.training.batch_size, seed=config.seed, pools=pools_of(config, trained))


def pools_of(config: RunConfig, trained: Sequence[Example]) -> tuple[Pool, ...]:
    """The pool of each example."""
    subsets = config.subsets()
    pools = [Pool(subset.group, subset.batch_size) for subset in subsets]
    return tuple(pools[example.subset] for example in trained)


def steps_of_epochs(config: RunConfig, found: Scan, epochs: int) -> int:
    """Steps for `epochs` passes over the pictures; the last step may begin the next pass."""
    trained, _ = split_examples(config, found)
    return -(-epochs * order_of(config, trained).batches_per_epoch // config.training.accumulation_steps)


def data_identity(config: RunConfig, trained: tuple[Example, ...]) -> str:
    """SHA-256 over all that positions depend on: the pictures with their cuts, batch size and accumulation."""
    training = config.training
    rows = [
        [example.example_hash, example.repeats, example.bucket, example.resized, example.crop] for example in trained
    ]
    pools = pools_of(config, trained)
    groups = [pools] if set(pools) != {Pool(0, training.batch_size)} else []  # the identity of older runs stays
    text = json.dumps([rows, training.batch_size, training.accumulation_steps, *groups], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
