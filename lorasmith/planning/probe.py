"""The child of a plan: a worker's work on a small scale, and what it took. Says nothing to people.

Started as `python -m lorasmith.planning.probe FOLDER …`; FOLDER holds what `runtime.probing` put there, and takes the
answer. What lies outside of it is only read.
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
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lorasmith.config import load_run_toml
from lorasmith.data.findings import Finding
from lorasmith.errors import ExitCode, TrainerError
from lorasmith.inputs import base_weights, scan_for, split_examples
from lorasmith.planning.files import is_evaluated
from lorasmith.planning.plan import ProbeResult
from lorasmith.planning.probing import ANSWER, PLAN
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


@dataclass(frozen=True, slots=True)
class WholeStart:
    """What the start that is tried would find, which the trial with its few pictures does not."""

    pictures: int  # that the cache lacks
    captions: int
    noticed: tuple[Finding, ...]


def main(argv: list[str]) -> int:
    """Makes the trial, leaves the answer, returns the worker's exit code."""
    asked = _parsed(argv)
    folder: Path = asked.folder
    run = RunFolder(folder / "lora_output")
    gc.disable()  # as the worker does while it imports
    whole = WholeStart(0, 0, ())
    with suppress(TrainerError, ModuleNotFoundError):  # the worker meets the same, and tells
        whole = _whole_start(folder)
    status = worker.main(
        [str(run.root), "--attempt", "1", "--stop-at", str(asked.steps), "--supervisor", str(asked.supervisor)]
    )
    events = read_events(run.ledger) or read_events(run.early_ledger)
    answer: dict[str, Any]
    ending = next((event for event in events if isinstance(event, RunStopped)), None)
    if ending is None:
        return status
    if ending.exit_code == ExitCode.FINISHED:
        answer = {"measured": asdict(_measured(folder, run, events, whole=whole, launched=asked.launched))}
    else:
        answer = {"code": ending.code, "fields": ending.fields, "exit_code": ending.exit_code}
    (folder / ANSWER).write_text(json.dumps(answer), encoding="utf-8")
    return status


def _whole_start(folder: Path) -> WholeStart:
    """What the start would have to encode, and which captions it would cut.

    Where nothing is to be encoded the trial gets copies, as the run would not load the encoders then either.
    """
    from lorasmith.data.cache import EncoderCache
    from lorasmith.data.cache_folder import cache_folder
    from lorasmith.data.encode import Encoded, read_cached
    from lorasmith.engine.encode import cache_keys
    from lorasmith.evaluation.choose import EMPTY_CAPTION, choose
    from lorasmith.families import load_family
    from lorasmith.families.weights import TextSettings
    from lorasmith.session.unseen_words import unseen_words

    class Untouched(EncoderCache):
        def _set_aside(self, path: Path) -> None:
            """Leaves a damaged file, which counts as missing, to the run."""

    config = load_run_toml(folder / PLAN)
    family = load_family(base_weights(config, Path()), TextSettings(clip_skip=config.model.clip_skip))
    keys = cache_keys(family, trained=family.traits.text_encoders if config.adapter.train_text_encoder else ())
    found = scan_for(config, family.weights, check_pixels=False)
    trained, held_out = split_examples(config, found)
    examples, captions = list(trained), []
    if is_evaluated(config):
        examples += choose(trained, held_out, count=config.evaluation.examples, seed=config.seed).all
        captions = [EMPTY_CAPTION, *config.evaluation.sample_prompts]
    theirs = Untouched(cache_folder(Path(config.dataset.folder)))
    missing = read_cached(theirs, examples, captions, into=Encoded(keys, keys.dtype))
    if not len(missing):
        _copy_cached(folder, theirs, keys, family.weights)
    noticed = tuple(Finding(*one) for one in unseen_words(config, family, found.examples))
    return WholeStart(len(missing.pictures), len(missing.captions), noticed)


def _copy_cached(folder: Path, theirs: EncoderCache, keys: CacheKeys, weights: BaseWeights) -> None:
    from lorasmith.data.cache import IMAGES, TEXT, EncoderCache
    from lorasmith.data.cache_folder import cache_folder
    from lorasmith.evaluation.choose import EMPTY_CAPTION

    run = RunFolder(folder / "lora_output")
    trial = load_run_toml(run.staging / run.config.name)
    ours = EncoderCache(cache_folder(Path(trial.dataset.folder)))
    examples = scan_for(trial, weights, check_pixels=False).examples
    needed = {(IMAGES, keys.latents_key(one)) for one in examples}
    if keys.caches_text:
        needed |= {(TEXT, keys.text_key(one.caption)) for one in examples}
        if is_evaluated(trial):
            needed.add((TEXT, keys.text_key(EMPTY_CAPTION)))
    for kind, key in needed:
        ours.path(kind, key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(theirs.path(kind, key), ours.path(kind, key))


def _measured(
    folder: Path, run: RunFolder, events: Sequence[Event], *, whole: WholeStart, launched: float
) -> ProbeResult:
    from lorasmith.engine.device import choose_device

    config = load_run_toml(run.config)
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
        first_steps_seconds=tuple(one.seconds for one in steps[:warm_up]),
        step_seconds=statistics.mean(one.seconds for one in steps[warm_up:]),
        save_seconds=saved.seconds,
        export_seconds=max(0.0, _the(events, AdapterExported).time - saved.time),
        evaluation_seconds=evaluation,
        first_evaluation_seconds=first_evaluation,
        peak_memory=choose_device(config.machine.device, threads=config.machine.threads).peak_memory(),
        pictures_to_encode=whole.pictures,
        captions_to_encode=whole.captions,
        picture_bytes=_mean_size(folder / ".lorasmith_cache" / "latents"),
        caption_bytes=_mean_size(folder / ".lorasmith_cache" / "text"),
        first_state_bytes=_size(first),
        state_bytes=_size(newest),
        export_bytes=run.export(config.export.name).stat().st_size,
        sample_bytes=_mean_size(run.samples / "control"),
        ledger_step_bytes=max(len(encode(one)) for one in steps),
        noticed=whole.noticed,
    )


def _encoding(events: Sequence[Event], folder: Path) -> tuple[float, float, float, float]:
    """Seconds: loading the encoders, a picture, a caption, and all of it; zeros where nothing was encoded."""
    told = [event for event in events if isinstance(event, CacheProgress)]
    if len(told) < 2:
        return 0.0, 0.0, 0.0, 0.0
    each = [after.time - before.time for before, after in pairwise(told)]
    pictures = len(list((folder / ".lorasmith_cache" / "latents").iterdir()))
    # The first of each kind comes with what is loaded and set up once.
    of_pictures, of_captions = each[1:pictures] or each[:1], each[pictures + 1 :] or each[pictures:]
    picture = statistics.median(of_pictures)
    caption = statistics.median(of_captions) if of_captions else 0.0
    whole = sum(each)
    once = whole - pictures * picture - (len(each) - pictures) * caption
    return max(0.0, once), picture, caption, whole


def _evaluation(events: Sequence[Event]) -> tuple[float | None, float]:
    """Seconds for each picture, None where none was drawn; and by which the first evaluation took longer."""
    evaluated = [event for event in events if isinstance(event, Evaluated)]
    if not evaluated or not evaluated[-1].samples:
        return None, 0.0
    first, last = evaluated[0], evaluated[-1]
    return last.seconds / len(last.samples), max(0.0, first.seconds - last.seconds)


def _size(state: SavedState) -> int:
    return sum(path.stat().st_size for path in state.path.iterdir())


def _mean_size(folder: Path) -> int:
    """Bytes of a file in there; 0 where there is none."""
    sizes = [path.stat().st_size for path in folder.iterdir()] if folder.is_dir() else []
    return round(statistics.mean(sizes)) if sizes else 0


E = TypeVar("E", bound=Event)


def _the(events: Sequence[Event], kind: type[E]) -> E:
    """The last event of a kind; a trial that reached its end has one of each."""
    return [event for event in events if isinstance(event, kind)][-1]


def _parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lorasmith.planning.probe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--launched", type=float, required=True, help="wall clock, seconds since 1970")
    parser.add_argument("--supervisor", type=int, required=True, help="process id; the trial ends when it is gone")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
