"""The process of a probe: does a worker's work in a temporary folder and measures it. Prints nothing.

Started as `python -m lorasmith.planning.probe_process FOLDER …`; FOLDER was prepared by `planning.probe` and receives
the answer. Everything outside of it is only read.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lorasmith.config import RunConfig, load_run_toml
from lorasmith.data.cache_folder import FOLDER_NAME, cache_folder
from lorasmith.data.findings import Finding
from lorasmith.errors import ExitCode, TrainerError
from lorasmith.inputs import base_weights, data_folders, scan_for, split_examples, text_settings
from lorasmith.libraries import import_diffusers_lean
from lorasmith.planning.estimate import ProbeResult
from lorasmith.planning.probe import ANSWER, PLAN, RUN
from lorasmith.runs.events import (
    AdapterExported,
    CacheProgress,
    CheckpointSaved,
    DeviceChosen,
    Evaluated,
    Event,
    RunStarted,
    RunStopped,
    StepCompleted,
    StepRepeated,
    encode,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import read_events
from lorasmith.runs.states import SavedState, find_states
from lorasmith.runtime import worker

if TYPE_CHECKING:
    from lorasmith.data.cache import CacheKeys, EncoderCache
    from lorasmith.families.weights import BaseWeights

MAX_FIRST_STEPS = 2
ANY_TARGET = sys.maxsize  # of captions it matters that tags come in over time, not when


@dataclass(frozen=True, slots=True)
class WholeStart:
    """The amount that the whole start would have to encode; a probe with its few pictures cannot measure it."""

    pictures: int  # missing in the cache
    captions: int
    noticed: tuple[Finding, ...]
    noise_levels: tuple[float, ...]


def main(argv: list[str]) -> int:
    """Runs the probe, writes the answer and returns the worker's exit code."""
    arguments = _parsed(argv)
    folder: Path = arguments.folder
    run = RunFolder(folder / RUN)
    if arguments.levels_alone:
        (folder / ANSWER).write_text(json.dumps({"noise_levels": _noise_levels(load_run_toml(folder / PLAN))}))
        return int(ExitCode.FINISHED)
    gc.disable()  # as the worker does while it imports
    whole = WholeStart(0, 0, (), ())
    with suppress(TrainerError, ModuleNotFoundError):  # the worker fails for the same reason and records it
        whole = _whole_start(folder)
    steps, supervisor = str(arguments.steps), str(arguments.supervisor)
    status = worker.main([str(run.root), "--attempt", "1", "--stop-at", steps, "--supervisor", supervisor])
    events = read_events(run.ledger) or read_events(run.early_ledger)
    answer: dict[str, Any]
    ending = next((event for event in events if isinstance(event, RunStopped)), None)
    if ending is None:
        return status
    if ending.exit_code == ExitCode.FINISHED:
        measured = _measured(folder, run, events, whole=whole, launched=arguments.launched)
        if arguments.measure_device:
            measured = replace(measured, matrix_flops=_matrix_flops(run, measured.precision))
        answer = {"measured": asdict(measured)}
    else:
        answer = {"code": ending.code, "fields": ending.fields, "exit_code": ending.exit_code}
    (folder / ANSWER).write_text(json.dumps(answer), encoding="utf-8")
    return status


def _whole_start(folder: Path) -> WholeStart:
    """Counts what the whole start would have to encode, and finds the captions it would cut.

    If nothing is missing, the probe's cache receives copies, since the run will not load the encoders either.
    """
    from lorasmith.data.cache import EncoderCache
    from lorasmith.data.encode import Encoded, read_cached
    from lorasmith.engine.encode import cache_keys
    from lorasmith.evaluation.choose import choose, texts_of
    from lorasmith.families import load_family
    from lorasmith.session.captions import caption_plan
    from lorasmith.session.notices import caption_notices
    from lorasmith.session.pictures import picture_plan

    class Untouched(EncoderCache):
        def _set_aside(self, path: Path) -> None:
            """A damaged file counts as missing; only the run renames it."""

    config = load_run_toml(folder / PLAN)
    family = load_family(base_weights(config), text_settings(config.model))
    keys = cache_keys(
        family,
        trained=family.traits.text_encoders if config.adapter.trains_text_encoder else (),
        tile=config.model.vae_tile_size,
        text_form=config.model.text_encoder_precision,
    )
    found = scan_for(config, family.weights, check_pixels=False)
    trained, held_out = split_examples(config, found)
    examples, captions = list(trained), list[str]()
    if config.is_evaluated:
        examples += choose(trained, held_out, count=config.evaluation.examples, seed=config.seed).all
        captions = texts_of(config.evaluation)
    captions += caption_plan(config, trained, stop_at=ANY_TARGET).beforehand
    examples += picture_plan(config, trained).beforehand
    theirs = Untouched(cache_folder(data_folders(config)[0]))
    missing = read_cached(theirs, examples, captions, into=Encoded(keys, keys.dtype))
    if not len(missing):
        _copy_cached(folder, theirs, keys, family.weights)
    noticed = tuple(Finding(*notice) for notice in caption_notices(config, family, found.examples))
    return WholeStart(len(missing.pictures), len(missing.captions), noticed, _noise_levels(config))


def _noise_levels(config: RunConfig) -> tuple[float, ...]:
    """The same levels as `_whole_start`, of which no component of the model needs to be there."""
    from lorasmith.families import load_family
    from lorasmith.session.noise_levels import level_shares
    from lorasmith.session.objective import trained_process

    family = load_family(base_weights(config), text_settings(config.model))
    trained, _ = split_examples(config, scan_for(config, family.weights, check_pixels=False))
    return level_shares(trained_process(family.noise_process(), config.noise), trained, family.weights.size_multiple)


def _copy_cached(folder: Path, theirs: EncoderCache, keys: CacheKeys, weights: BaseWeights) -> None:
    """Copies the cached files of the probe's pictures into its own cache."""
    from lorasmith.data.cache import IMAGES, TEXT, EncoderCache
    from lorasmith.evaluation.choose import EMPTY_CAPTION
    from lorasmith.session.captions import caption_plan
    from lorasmith.session.pictures import picture_plan

    run = RunFolder(folder / RUN)
    config = load_run_toml(run.staging / run.config.name)
    ours = EncoderCache(cache_folder(data_folders(config)[0]))
    examples = scan_for(config, weights, check_pixels=False).examples
    pictures = [*examples, *picture_plan(config, examples).beforehand]
    needed = {(IMAGES, keys.latents_key(example)) for example in pictures}
    if keys.caches_text:
        captions = [example.caption for example in examples]
        captions += caption_plan(config, examples, stop_at=ANY_TARGET).beforehand
        needed |= {(TEXT, keys.text_key(caption)) for caption in captions}
        if config.is_evaluated:
            needed.add((TEXT, keys.text_key(EMPTY_CAPTION)))
    for kind, key in needed:
        ours.path(kind, key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(theirs.path(kind, key), ours.path(kind, key))


def _measured(
    folder: Path, run: RunFolder, events: Sequence[Event], *, whole: WholeStart, launched: float
) -> ProbeResult:
    """Reads the measurements from the events and files of a finished run."""
    from lorasmith.engine.device import choose_device

    config = load_run_toml(run.config)
    chosen = choose_device(config.machine.device, threads=config.machine.threads)
    device = _the(events, DeviceChosen)
    steps = [event for event in events if isinstance(event, StepCompleted)]
    warm_up = min(MAX_FIRST_STEPS, len(steps) - 1)
    encoders, picture, caption, encoding = _encoding(events, folder)
    saved = _the(events, CheckpointSaved)
    newest, first = find_states(run.root)[0]
    evaluation, first_evaluation = _evaluation(events)
    return ProbeResult(
        device=device.device,
        device_name=device.name,
        precision=device.precision,
        start_seconds=_the(events, RunStarted).time - launched - encoding,
        encoders_seconds=encoders,
        picture_seconds=picture,
        caption_seconds=caption,
        first_steps_seconds=tuple(step.seconds for step in steps[:warm_up]),
        step_seconds=statistics.mean(step.seconds for step in steps[warm_up:]),
        save_seconds=saved.seconds,
        export_seconds=max(0.0, _the(events, AdapterExported).time - saved.time),
        evaluation_seconds=evaluation,
        first_evaluation_seconds=first_evaluation,
        peak_memory=chosen.peak_memory(),
        pictures_to_encode=whole.pictures,
        captions_to_encode=whole.captions,
        picture_bytes=_mean_size(folder / FOLDER_NAME / "latents"),
        caption_bytes=_mean_size(folder / FOLDER_NAME / "text"),
        first_state_bytes=_size(first),
        state_bytes=_size(newest),
        export_bytes=run.export(config.export.name).stat().st_size,
        sample_bytes=_mean_size(run.samples / "control"),
        ledger_step_bytes=max(len(encode(step)) for step in steps),
        step_flop=statistics.mean(step.flop for step in steps[warm_up:]),
        peak_flops=device.peak_flops,
        was_split=any(isinstance(event, StepRepeated) and event.reason == "out_of_memory" for event in events),
        has_own_memory=chosen.own_memory() is not None,
        noticed=whole.noticed,
        noise_levels=whole.noise_levels,
    )


def _matrix_flops(run: RunFolder, precision: str) -> float:
    from lorasmith.engine.device import choose_device, matrix_flops

    machine = load_run_toml(run.config).machine
    return matrix_flops(choose_device(machine.device, threads=machine.threads), precision)


def _encoding(events: Sequence[Event], folder: Path) -> tuple[float, float, float, float]:
    """Seconds to load the encoders, for a picture, for a caption, and in all; zeros if nothing was encoded."""
    progress = [event for event in events if isinstance(event, CacheProgress)]
    if len(progress) < 2:
        return 0.0, 0.0, 0.0, 0.0
    each = [after.time - before.time for before, after in pairwise(progress)]
    pictures = len(list((folder / FOLDER_NAME / "latents").iterdir()))
    # The first of each kind includes loading and setting up.
    of_pictures, of_captions = each[1:pictures] or each[:1], each[pictures + 1 :] or each[pictures:]
    picture = statistics.median(of_pictures)
    caption = statistics.median(of_captions) if of_captions else 0.0
    whole = sum(each)
    once = whole - pictures * picture - (len(each) - pictures) * caption
    return max(0.0, once), picture, caption, whole


def _evaluation(events: Sequence[Event]) -> tuple[float | None, float]:
    """Seconds for each picture, None if none was drawn; and the additional seconds of the first evaluation."""
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    if not evaluated or not evaluated[-1].samples:
        return None, 0.0
    first, last = evaluated[0], evaluated[-1]
    return last.seconds / len(last.samples), max(0.0, first.seconds - last.seconds)


def _size(state: SavedState) -> int:
    """Bytes of a state."""
    return sum(path.stat().st_size for path in state.path.iterdir())


def _mean_size(folder: Path) -> int:
    """Mean bytes of the files in `folder`; 0 if there are none."""
    sizes = [path.stat().st_size for path in folder.iterdir()] if folder.is_dir() else []
    return round(statistics.mean(sizes)) if sizes else 0


E = TypeVar("E", bound=Event)


def _the(events: Sequence[Event], kind: type[E]) -> E:
    """The last event of a kind; a finished run has at least one of each."""
    return [event for event in events if isinstance(event, kind)][-1]


def _parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lorasmith.planning.probe_process")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--launched", type=float, required=True, help="wall clock, seconds since 1970")
    parser.add_argument("--supervisor", type=int, required=True, help="process id; the probe ends when it is gone")
    parser.add_argument("--levels-alone", action="store_true", help="the shares of the noise levels, without a run")
    parser.add_argument("--measure-device", action="store_true", help="the rate of a large product of matrices too")
    return parser.parse_args(argv)


if __name__ == "__main__":
    import_diffusers_lean()
    sys.exit(main(sys.argv[1:]))
