"""What a start would do, before it does it: numbers and codes from its config, its pictures and a short trial of it.

Only looks: takes no lock and writes nothing. Knows no torch and no sentences; how the trial is made is
`runtime.probing`'s business.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lorasmith.data.findings import Finding
from lorasmith.data.folder import Scan
from lorasmith.data.order import plan_epoch
from lorasmith.data.types import Example, Size
from lorasmith.inputs import base_weights, scan_for, split_examples
from lorasmith.planning.files import PlannedFile, cadence_of, planned_files
from lorasmith.runtime.start import Start

# (pictures from, least steps, most steps), as experience has it; None: no limit.
SUGGESTIONS: tuple[tuple[int, int, int | None], ...] = ((0, 200, 500), (50, 500, 1000), (201, 1000, None))
ERROR = 1.5  # a run may take so many times as long as was estimated
EVALUATION_SHARE = 0.1  # of the wall time, the one at the end aside
VALIDATION_SHARE = 0.2  # of the work for a picture that is drawn and validated: 4 of about 20 predictions
MAX_VALIDATED = 32  # held-out pictures
# What the loss log (CSV) and TensorBoard take for a step beside the ledger's line, and a report without samples: both
# measured. Each sample lies in TensorBoard's file and in the report's page too.
LOG_BYTES_PER_STEP = 600
REPORT_BYTES = 200_000
SAMPLE_COPIES = 2
NOT_PROBED = "not_probed"  # nobody wanted a trial


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a trial of the start has shown: seconds, bytes, and what is not encoded yet."""

    device: str
    device_name: str
    precision: str
    start_seconds: float  # from the start of the process to the first step, encoding aside
    encoders_seconds: float  # loading the encoders, where anything is to be encoded
    picture_seconds: float  # encoding one picture
    caption_seconds: float
    first_steps_seconds: tuple[float, ...]  # the first steps of a process are not like the others
    step_seconds: float  # of the later steps
    save_seconds: float
    export_seconds: float
    evaluation_seconds: float | None  # for each picture that is drawn and validated; None where none was
    first_evaluation_seconds: float  # by which the first takes longer than that
    peak_memory: int  # bytes, of the device where it has memory of its own, else of the process; 0: not told
    pictures_to_encode: int
    captions_to_encode: int
    picture_bytes: int  # of a cached file
    caption_bytes: int
    first_state_bytes: int  # of the state of step 0: optimizers have little to remember yet
    state_bytes: int
    export_bytes: int
    sample_bytes: int  # of a generated picture
    ledger_step_bytes: int
    noticed: tuple[Finding, ...] = ()  # about captions: it takes a tokenizer


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Why there was no trial, or what it ended with: the sentence `error.<code>`."""

    code: str
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FolderPlan:
    """A folder of pictures that are trained on."""

    name: str
    pictures: int
    repeats: int
    times_seen: float  # each picture of it, in this start


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """A size that pictures are cut to."""

    width: int
    height: int
    pictures: int
    batches: int  # of one pass over all pictures


@dataclass(frozen=True, slots=True)
class TimePlan:
    """Seconds by what they are spent on."""

    starting: float
    encoding: float
    steps: float
    saving: float
    evaluating: float
    seconds_per_step: float

    @property
    def total(self) -> float:
        return self.starting + self.encoding + self.steps + self.saving + self.evaluating


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """Bytes by what they are for, as they lie there in the end."""

    cache: int
    states: int
    exports: int
    samples: int
    logs: int

    @property
    def total(self) -> int:
        return self.cache + self.states + self.exports + self.samples + self.logs


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A start as it would go."""

    is_new: bool
    first_step: int
    stop_at: int
    steps_assumed: bool  # nobody named the steps: the least of those suggested
    pictures: int  # trained on
    held_out: int
    repeats: int  # the sum over all pictures
    folders: tuple[FolderPlan, ...]
    buckets: tuple[BucketPlan, ...]
    batch_size: int
    accumulation_steps: int
    batches_per_epoch: int
    epochs: float  # passes over all pictures, in this start
    times_seen: tuple[float, float]  # the picture that is seen least, and most
    suggested_steps: tuple[int, int | None]
    warnings: tuple[tuple[str, dict[str, Any]], ...]  # (code, fields), as the run will give them
    findings: tuple[Finding, ...]
    free_bytes: int  # on the disk of the run folder
    measured: ProbeResult | Unmeasured
    time: TimePlan | None  # None: not measured
    disk: DiskPlan | None
    files: tuple[PlannedFile, ...]

    @property
    def steps(self) -> int:
        """To be done in this start."""
        return self.stop_at - self.first_step

    @property
    def lacks_room(self) -> bool:
        """Whether the disk is too small for what will lie on it in the end."""
        return self.disk is not None and self.disk.total > self.free_bytes


def suggested_steps(pictures: int) -> tuple[int, int | None]:
    """(least, most) steps in all for so many pictures; most None: no limit."""
    least, most = next((least, most) for start, least, most in reversed(SUGGESTIONS) if pictures >= start)
    return least, most


def times_seen(steps: int, examples_per_step: float, repeats: int, sum_of_repeats: int) -> float:
    """How often a picture with so many repeats is seen: the mission's steps / pictures where nothing is set."""
    return steps * examples_per_step * repeats / sum_of_repeats


def look(start: Start) -> Scan:
    """The pictures of a start that was worked out a moment ago."""
    weights = base_weights(start.config)
    return scan_for(start.config, weights, check_pixels=False)


def with_suggested_steps(start: Start, found: Scan) -> Start:
    """The start as far as is suggested at least for its pictures."""
    trained, _ = split_examples(start.config, found)
    return replace(start, stop_at=start.first_step + suggested_steps(len(trained))[0])


def plan_of(
    start: Start,
    found: Scan,
    measured: ProbeResult | Unmeasured,
    *,
    steps_assumed: bool = False,
    checking_seconds: float = 0.0,
) -> RunPlan:
    """What the start would do with these pictures. `checking_seconds` is what the parent takes before its worker."""
    work = _work_of(start, found)
    trained, repeats, batches = work.trained, work.repeats, work.batches
    training = start.config.training
    seen = [times_seen(work.steps, work.examples_per_step, one.repeats, repeats) for one in trained]
    time = _time(start, work, measured, checking=checking_seconds) if isinstance(measured, ProbeResult) else None
    return RunPlan(
        is_new=start.is_new,
        first_step=start.first_step,
        stop_at=start.stop_at,
        steps_assumed=steps_assumed,
        pictures=len(trained),
        held_out=len(work.held_out),
        repeats=repeats,
        folders=_folders(work),
        buckets=_buckets(work),
        batch_size=training.batch_size,
        accumulation_steps=training.accumulation_steps,
        batches_per_epoch=len(batches),
        epochs=work.steps * training.accumulation_steps / len(batches),
        times_seen=(min(seen), max(seen)),
        suggested_steps=suggested_steps(len(trained)),
        warnings=tuple(one for one in start.warnings if one[0] not in {noted.code for noted in found.findings}),
        findings=(*found.findings, *(measured.noticed if isinstance(measured, ProbeResult) else ())),
        free_bytes=_free(start.run.root),
        measured=measured,
        time=time,
        disk=_disk(start, work, measured) if isinstance(measured, ProbeResult) else None,
        files=planned_files(
            start,
            samples=work.samples,
            encoded=_encoded(start, work, measured),
            by_clock=_may_save_by_clock(start, time),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Work:
    """What the parts of a plan are counted from."""

    trained: tuple[Example, ...]
    held_out: tuple[Example, ...]
    batches: list[tuple[int, ...]]  # of one pass over the pictures
    steps: int
    repeats: int
    examples_per_step: float  # below batch size x accumulation where the last batch of a bucket is not full
    samples: int  # pictures drawn at one evaluation
    validated: int  # pictures the validation loss is measured on
    share: float  # the pixels of a mean batch, as a part of a full batch of the largest bucket


def _work_of(start: Start, found: Scan) -> _Work:
    config = start.config
    trained, held_out = split_examples(config, found)
    batch_size = config.training.batch_size
    batches = plan_epoch([(one.bucket, one.repeats) for one in trained], batch_size, config.seed, 1)
    repeats = sum(one.repeats for one in trained)
    largest = largest_bucket(trained)
    compared = min(config.evaluation.examples, len({one.image_sha256 for one in found.examples}))
    pixels = sum(one.repeats * one.bucket.width * one.bucket.height for one in trained)
    return _Work(
        trained=trained,
        held_out=held_out,
        batches=batches,
        steps=start.stop_at - start.first_step,
        repeats=repeats,
        examples_per_step=repeats / len(batches) * config.training.accumulation_steps,
        samples=compared + len(config.evaluation.sample_prompts),
        validated=min(MAX_VALIDATED, len(held_out)) or compared,
        share=pixels / (len(batches) * batch_size * largest.width * largest.height),
    )


def largest_bucket(trained: Iterable[Example]) -> Size:
    """The one that takes most memory: what a trial is made with."""
    return max((one.bucket for one in trained), key=lambda size: (size.width * size.height, size))


def _folders(work: _Work) -> tuple[FolderPlan, ...]:
    counted = Counter((one.image.parent.name, one.repeats) for one in work.trained)
    return tuple(
        FolderPlan(name, count, repeats, times_seen(work.steps, work.examples_per_step, repeats, work.repeats))
        for (name, repeats), count in counted.items()
    )


def _buckets(work: _Work) -> tuple[BucketPlan, ...]:
    pictures = Counter(one.bucket for one in work.trained)
    batches = Counter(work.trained[ids[0]].bucket for ids in work.batches)
    return tuple(BucketPlan(*bucket, pictures[bucket], batches[bucket]) for bucket in sorted(pictures))


def _encoded(start: Start, work: _Work, measured: ProbeResult | Unmeasured) -> tuple[tuple[int, int], tuple[int, int]]:
    """(least, most) files that the cache will take, of pictures and of captions."""
    if isinstance(measured, ProbeResult):
        pictures, captions = measured.pictures_to_encode, measured.captions_to_encode
        return (pictures, pictures), (captions, captions)
    is_evaluated = bool(cadence_of(start).evaluations)
    examples = [*work.trained, *(work.held_out if is_evaluated else ())]
    keys = {(one.image_sha256, one.resized, one.bucket, one.crop) for one in examples}
    if start.config.adapter.train_text_encoder:
        return (0, len(keys)), (0, 0)
    texts = {one.caption for one in examples}
    if is_evaluated:  # guidance needs the caption without words too
        texts |= {"", *start.config.evaluation.sample_prompts}
    return (0, len(keys)), (0, len(texts))


def _may_save_by_clock(start: Start, time: TimePlan | None) -> bool:
    """Whether the run may be long enough for it; with room for the error of the estimate."""
    seconds = start.config.cadence.save_minutes * 60
    return seconds > 0 and (time is None or time.total * ERROR >= seconds)


def _time(start: Start, work: _Work, measured: ProbeResult, *, checking: float) -> TimePlan:
    cadence = cadence_of(start)
    first = measured.first_steps_seconds[: work.steps]
    pictures, captions = measured.pictures_to_encode, measured.captions_to_encode
    encoding = pictures * measured.picture_seconds + captions * measured.caption_seconds
    if pictures or captions:
        encoding += measured.encoders_seconds
    steps = work.share * (sum(first) + (work.steps - len(first)) * measured.step_seconds)
    saving = len(cadence.saves) * measured.save_seconds + (len(cadence.exports) + 1) * measured.export_seconds
    return TimePlan(
        starting=checking + measured.start_seconds,
        encoding=encoding,
        steps=steps,
        saving=saving,
        evaluating=_evaluating(cadence.evaluations, work, measured),
        seconds_per_step=work.share * measured.step_seconds,
    )


def _evaluating(due: Sequence[int], work: _Work, measured: ProbeResult) -> float:
    """Seconds of those evaluations that are made, and of the control: one is left out where it would take more than its
    share of the time since the one before; the first and the last never are."""
    if not due or measured.evaluation_seconds is None:
        return 0.0
    parts = (1 - VALIDATION_SHARE) * work.samples + VALIDATION_SHARE * work.validated
    each = measured.evaluation_seconds * parts
    apart = each * (1 - EVALUATION_SHARE) / EVALUATION_SHARE  # seconds between two
    made, newest = 1, due[0]
    for step in due[1:-1]:
        if (step - newest) * work.share * measured.step_seconds >= apart:
            made, newest = made + 1, step
    made += len(due) > 1
    return measured.first_evaluation_seconds + (1 + made) * each


def _disk(start: Start, work: _Work, measured: ProbeResult) -> DiskPlan:
    cadence = cadence_of(start)
    pictures, captions = measured.pictures_to_encode, measured.captions_to_encode
    drawn = (len(cadence.evaluations) + 1) * work.samples if cadence.evaluations else 0
    samples = drawn * measured.sample_bytes
    has_best = bool(cadence.evaluations and work.held_out)
    kept = min(start.config.cadence.keep_states, len(cadence.saves))
    keeps_first = start.is_new and kept == len(cadence.saves)
    logs = work.steps * (measured.ledger_step_bytes + LOG_BYTES_PER_STEP)
    return DiskPlan(
        cache=pictures * measured.picture_bytes + captions * measured.caption_bytes,
        states=(kept - keeps_first) * measured.state_bytes + keeps_first * measured.first_state_bytes,
        exports=(len(cadence.exports) + 1 + has_best) * measured.export_bytes,
        samples=samples,
        logs=logs + REPORT_BYTES + samples * SAMPLE_COPIES,
    )


def _free(folder: Path) -> int:
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return shutil.disk_usage(there).free


def as_plain(plan: RunPlan) -> dict[str, Any]:
    """As JSON values: every field by its name, and the sums."""
    plain = asdict(plan)
    plain["steps"] = plan.steps
    plain["lacks_room"] = plan.lacks_room
    plain["warnings"] = [{"code": code, "fields": fields} for code, fields in plan.warnings]
    for name, part in (("time", plan.time), ("disk", plan.disk)):
        if part is not None:
            plain[name]["total"] = part.total
    return plain
