"""Time and disk space of a start, estimated from what its probe has measured. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorasmith.config import RunConfig
from lorasmith.data.findings import Finding
from lorasmith.data.folder import Scan
from lorasmith.data.order import plan_epoch
from lorasmith.data.types import Example, Size
from lorasmith.evaluation.limits import MAX_SHARE, MAX_VALIDATED
from lorasmith.inputs import pools_of, split_examples

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start

VALIDATION_SHARE = 0.2  # of the time of a picture that is both drawn and validated: 4 of about 20 predictions
# Bytes that the loss log (CSV) and TensorBoard take for a step besides the ledger's line, and a report without samples:
# both measured. TensorBoard's file and the report's page hold a copy of each sample.
LOG_BYTES_PER_STEP = 600
REPORT_BYTES = 200_000
SAMPLE_COPIES = 2


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Measurements of a probe, in seconds and bytes, and what the whole start still has to encode."""

    device: str
    device_name: str
    precision: str
    start_seconds: float  # from the start of the process to the first step, without encoding
    encoders_seconds: float  # loading the encoders; 0 where nothing is to be encoded
    picture_seconds: float  # encoding a picture
    caption_seconds: float
    first_steps_seconds: tuple[float, ...]  # the first steps of a process are slower than the others
    step_seconds: float  # of the later steps
    save_seconds: float
    export_seconds: float
    evaluation_seconds: float | None  # for each picture that is drawn and validated; None if none was
    first_evaluation_seconds: float  # additional time of the first evaluation
    peak_memory: int  # bytes of the device if it has memory of its own, else of the process; 0: unknown
    pictures_to_encode: int
    captions_to_encode: int
    picture_bytes: int  # of a file in the cache
    caption_bytes: int
    first_state_bytes: int  # of the state of step 0, at which optimizers hold little
    state_bytes: int
    export_bytes: int
    sample_bytes: int  # of a generated picture
    ledger_step_bytes: int
    step_flop: float = 0.0  # floating-point operations of a step; 0: unknown
    peak_flops: float = 0.0  # that the device's maker states, in a second; 0: unknown
    matrix_flops: float = 0.0  # that a large product of matrices reached, in a second; 0: not measured
    was_split: bool = False  # memory did not suffice for a whole micro-batch
    has_own_memory: bool = False  # the device's, apart from the computer's
    noticed: tuple[Finding, ...] = ()  # about captions, which need a tokenizer
    noise_levels: tuple[float, ...] = ()  # share of the whole start's examples by level, of flow matching


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """The reason why there are no measurements: the sentence `error.<code>`."""

    code: str
    fields: dict[str, Any]


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
    """Bytes on the disk at the end of the run, by what they are for."""

    cache: int
    states: int
    exports: int
    samples: int
    logs: int

    @property
    def total(self) -> int:
        return self.cache + self.states + self.exports + self.samples + self.logs


@dataclass(frozen=True, slots=True)
class Workload:
    """The amounts of work of a start."""

    trained: tuple[Example, ...]
    held_out: tuple[Example, ...]
    batches: list[tuple[int, ...]]  # example ids of each micro-batch of the first epoch
    steps: int
    repeats: int  # sum over the trained examples
    examples_per_step: float  # less than batch size x accumulation if the last batch of a bucket is not full
    pixel_share: float  # pixels of the mean batch, as a share of a full batch of the largest bucket
    saves: int  # by number of steps, the state of step 0 included
    step_exports: int  # exports with the step in their name
    evaluations: int  # at most
    samples: int  # pictures drawn in an evaluation
    validated: int  # pictures that the validation loss is measured on


def workload_of(start: Start, found: Scan) -> Workload:
    """Counts what `start` does with the scanned pictures."""
    config, first, last = start.config, start.first_step, start.stop_at
    trained, held_out = split_examples(config, found)
    places = [(example.bucket, example.repeats) for example in trained]
    batches = plan_epoch(places, config.training.batch_size, config.seed, 1, pools_of(config, trained))
    repeats = sum(example.repeats for example in trained)
    heaviest = heaviest_example(config, trained)
    batch_size, largest = config.subsets()[heaviest.subset].batch_size, heaviest.bucket
    compared = min(config.evaluation.examples, len({example.image_sha256 for example in found.examples}))
    pixels = sum(example.repeats * example.bucket.width * example.bucket.height for example in trained)
    accumulation = config.training.accumulation_steps
    epochs = -(-last * accumulation // len(batches))

    def due(every: int, epochs_between: int) -> set[int]:
        ends = (-(-epoch * len(batches) // accumulation) for epoch in _multiples(epochs_between, 0, epochs))
        return {*_multiples(every, first, last), *(step for step in ends if first < step < last)}

    exports = due(config.cadence.save_every, config.cadence.epochs_between_saves(epochs))
    evaluations = due(config.evaluate_every, config.epochs_between_evaluations(epochs))
    evaluations |= {last} if config.is_evaluated else set()
    return Workload(
        trained=trained,
        held_out=held_out,
        batches=batches,
        steps=last - first,
        repeats=repeats,
        examples_per_step=repeats / len(batches) * config.training.accumulation_steps,
        pixel_share=pixels / (len(batches) * batch_size * largest.width * largest.height),
        saves=len({*exports, *([last] if start.has_steps_left else []), *([0] if start.is_new else [])}),
        step_exports=len(exports),
        evaluations=len(evaluations),
        samples=compared + len(config.evaluation.sample_prompts),
        validated=min(MAX_VALIDATED, len(held_out)) or compared,
    )


def heaviest_example(config: RunConfig, trained: Iterable[Example]) -> Example:
    """An example whose batches need most memory: a probe uses the pictures of its subset and bucket."""
    subsets = config.subsets()

    def weight(example: Example) -> tuple[int, Size]:
        pixels = example.bucket.width * example.bucket.height
        return pixels * subsets[example.subset].batch_size, example.bucket

    return max(trained, key=weight)


def estimate_time(work: Workload, measured: ProbeResult, *, checking_seconds: float) -> TimePlan:
    """Seconds of the whole start; `checking_seconds` is the time the parent takes before it launches a worker."""
    first = measured.first_steps_seconds[: work.steps]
    pictures, captions = measured.pictures_to_encode, measured.captions_to_encode
    encoding = pictures * measured.picture_seconds + captions * measured.caption_seconds
    if pictures or captions:
        encoding += measured.encoders_seconds
    steps = work.pixel_share * (sum(first) + (work.steps - len(first)) * measured.step_seconds)
    return TimePlan(
        starting=checking_seconds + measured.start_seconds,
        encoding=encoding,
        steps=steps,
        saving=work.saves * measured.save_seconds + (work.step_exports + 1) * measured.export_seconds,
        evaluating=_evaluating(work, measured, training_seconds=steps),
        seconds_per_step=work.pixel_share * measured.step_seconds,
    )


def _evaluating(work: Workload, measured: ProbeResult, *, training_seconds: float) -> float:
    """Seconds of the baseline, the first and the last evaluation, and of those between them, which are limited to
    MAX_SHARE of the time."""
    if not work.evaluations or measured.evaluation_seconds is None:
        return 0.0
    pictures = (1 - VALIDATION_SHARE) * work.samples + VALIDATION_SHARE * work.validated
    each = measured.evaluation_seconds * pictures
    always = 1 + min(2, work.evaluations)
    between = min((work.evaluations + 1 - always) * each, training_seconds * MAX_SHARE / (1 - MAX_SHARE))
    return measured.first_evaluation_seconds + always * each + between


def estimate_disk(start: Start, work: Workload, measured: ProbeResult) -> DiskPlan:
    """Bytes that the files of the start need, its evaluations all made."""
    samples = (work.evaluations + 1) * work.samples * measured.sample_bytes if work.evaluations else 0
    has_best = bool(work.evaluations and work.held_out)
    kept = min(start.config.cadence.keep_states or work.saves, work.saves)
    keeps_first = start.is_new and kept == work.saves
    logs = work.steps * (measured.ledger_step_bytes + LOG_BYTES_PER_STEP)
    pictures, captions = measured.pictures_to_encode, measured.captions_to_encode
    return DiskPlan(
        cache=pictures * measured.picture_bytes + captions * measured.caption_bytes,
        states=(kept - keeps_first) * measured.state_bytes + keeps_first * measured.first_state_bytes,
        exports=(work.step_exports + 1 + has_best) * measured.export_bytes,
        samples=samples,
        logs=logs + REPORT_BYTES + samples * SAMPLE_COPIES,
    )


def _multiples(every: int, first: int, last: int) -> list[int]:
    """The multiples of `every` in first < step <= last; none if `every` is 0."""
    return list(range((first // every + 1) * every, last + 1, every)) if every else []
