"""Verdicts on a run: which step to use, whether it trained too long, whether samples copy training pictures.

Codes and numbers; every code has its sentence in the catalogs. No verdict claims more than the error bars allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorasmith.reading.files import FileRecord
from lorasmith.reading.fold import Curves
from lorasmith.reading.metrics import VALIDATION, difference, error_of, is_held_out, value_of
from lorasmith.reading.pictures import sample_key
from lorasmith.runs.events import Evaluated

COPY_SIMILARITY = 0.97  # cosine of CLIP embeddings above which two pictures look the same to it
MIN_FOR_OVER_TRAINING = 3


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Which step to use: the sentence `use.<reason>`."""

    reason: str  # nothing_exported, exports_gone, not_evaluated, trained_pictures,
    # best, best_is_last, not_distinguishable, error_unknown
    step: int | None = None
    path: str = ""
    sha256: str = ""
    loss: float | None = None  # validation, of that step
    standard_error: float | None = None
    last_step: int | None = None  # the last step that has an export and a validation loss
    last_loss: float | None = None
    last_standard_error: float | None = None
    difference: float | None = None  # of the last step's loss from that of this step, and its standard error
    difference_error: float | None = None
    not_distinguishable: tuple[int, ...] = ()  # other steps with an export, within the error of the best
    against_baseline: str = "unknown"  # validation against the adapter off: better, worse, undecided, unknown


@dataclass(frozen=True, slots=True)
class OverTraining:
    """The verdict on whether validation rises while the training loss falls: the sentence `over_training.<verdict>`."""

    verdict: str  # seen, within_error, not_seen, too_few, trained_pictures, not_evaluated
    best_step: int | None = None
    last_step: int | None = None
    rise: float | None = None  # of validation since the best step
    error: float | None = None  # standard error of that difference
    fall: float | None = None  # of the average training loss since then


@dataclass(frozen=True, slots=True)
class Nearest:
    """A sample and the training picture most like it."""

    sample: str
    example: str | None  # the picture it was drawn from, if any
    nearest: str
    similarity: float
    baseline_similarity: float | None  # the same with the adapter off
    is_from_itself: bool  # it was drawn from that very picture: the similarity proves nothing


@dataclass(frozen=True, slots=True)
class Memorisation:
    """The verdict on whether samples copy training pictures: the sentence `memorisation.<verdict>`."""

    verdict: str  # copies, none, not_measured
    step: int | None = None
    samples: tuple[Nearest, ...] = ()  # the most similar first


def recommend(curves: Curves, records: Sequence[FileRecord]) -> Recommendation:
    """Returns the step with the lowest validation loss on held-out pictures among those that have an export."""
    exports = [file for file in records if file.kind != "state"]
    present = [file for file in exports if file.is_there is not False]
    if not present:
        return Recommendation("exports_gone" if exports else "nothing_exported")
    # Of the files of a step the best is preferred: its name stays.
    files = {file.step: file for file in sorted(reversed(present), key=lambda file: file.kind == "best")}
    newest = files[max(files)]
    reason, validated = _validated(curves)
    usable = [evaluation for evaluation in validated if evaluation.step in files]
    if not usable:
        return Recommendation(reason or "not_evaluated", step=newest.step, path=newest.path, sha256=newest.sha256)
    best, last = min(usable, key=_loss), usable[-1]
    equal = tuple(other.step for other in usable if other is not best and _is_within_error(best, other))
    apart, error = difference(last, best)
    reason = "best"
    if best is last:
        reason = "best_is_last"
    elif error is None:
        reason = "error_unknown"
    elif last.step in equal:
        reason = "not_distinguishable"
    return Recommendation(
        reason,
        step=best.step,
        path=files[best.step].path,
        sha256=files[best.step].sha256,
        loss=_loss(best),
        standard_error=error_of(best),
        last_step=last.step,
        last_loss=_loss(last),
        last_standard_error=error_of(last),
        difference=apart,
        difference_error=error,
        not_distinguishable=equal,
        against_baseline=_against_baseline(best, curves.baseline),
    )


def find_over_training(curves: Curves) -> OverTraining:
    """Finds a validation loss that rose by more than its error since its lowest value, while the average training loss
    fell.
    """
    reason, validated = _validated(curves)
    if reason:
        return OverTraining(reason)
    if len(validated) < MIN_FOR_OVER_TRAINING:
        return OverTraining("too_few")
    best, last = min(validated, key=_loss), validated[-1]
    averages = {point.step: point.average_loss for point in curves.points}
    fall = averages.get(best.step, 0.0) - averages.get(last.step, 0.0)
    rise, error = difference(last, best)
    verdict = "within_error" if _is_within_error(best, last) else "seen"
    if best is last or fall <= 0:
        verdict = "not_seen"
    return OverTraining(verdict, best.step, last.step, rise, error, fall)


def find_memorisation(curves: Curves) -> Memorisation:
    """Finds samples of the newest evaluation that are more similar to a training picture than any two pictures are by
    chance, and than the same sample with the adapter off.
    """
    for evaluation in reversed(curves.evaluations):
        found = [_nearest(sample, curves.baseline) for sample in evaluation.samples if _has_nearest(sample)]
        if not found:
            continue
        found.sort(key=lambda sample: sample.similarity, reverse=True)
        is_copy = any(
            not sample.is_from_itself
            and sample.similarity >= COPY_SIMILARITY
            and sample.similarity > (sample.baseline_similarity or 0.0)
            for sample in found
        )
        return Memorisation("copies" if is_copy else "none", evaluation.step, tuple(found))
    return Memorisation("not_measured")


def _validated(curves: Curves) -> tuple[str, list[Evaluated]]:
    """The evaluations on held-out pictures that can be compared with the newest of them; with none, the reason code."""
    evaluated = [evaluation for evaluation in curves.evaluations if value_of(evaluation, VALIDATION) is not None]
    if not evaluated:
        return "not_evaluated", []
    held_out = list(filter(is_held_out, evaluated))
    if not held_out:
        return "trained_pictures", []
    return "", [evaluation for evaluation in held_out if _has_same_pictures(evaluation, held_out[-1])]


def _has_nearest(sample: Mapping[str, Any]) -> bool:
    return bool(sample.get("nearest")) and sample.get("nearest_similarity") is not None


def _nearest(sample: Mapping[str, Any], baseline: Evaluated | None) -> Nearest:
    example = sample.get("example")
    same = [other for other in (baseline.samples if baseline else []) if sample_key(other) == sample_key(sample)]
    return Nearest(
        sample=str(sample.get("path", "")),
        example=None if example is None else str(example),
        nearest=str(sample["nearest"]),
        similarity=float(sample["nearest_similarity"]),
        baseline_similarity=float(same[0]["nearest_similarity"]) if same and _has_nearest(same[0]) else None,
        is_from_itself=example == sample["nearest"],
    )


def _loss(evaluation: Evaluated) -> float:
    loss = value_of(evaluation, VALIDATION)
    assert loss is not None
    return loss


def _has_same_pictures(first: Evaluated, second: Evaluated) -> bool:
    """Whether both validation losses are of the same pictures: means over other sets are not compared. Ledgers of older
    versions record only how many there were.
    """
    validations = first.validation or {}, second.validation or {}
    named = {validation["pictures"] for validation in validations if validation.get("pictures")}
    return validations[0].get("examples") == validations[1].get("examples") and len(named) < 2


def _is_within_error(first: Evaluated, second: Evaluated) -> bool:
    """Whether the difference of two steps is no more than its standard error, so that neither is better."""
    apart, error = difference(first, second)
    return error is None or abs(apart) <= error


def _against_baseline(best: Evaluated, baseline: Evaluated | None) -> str:
    if baseline is None or value_of(baseline, VALIDATION) is None or not _has_same_pictures(baseline, best):
        return "unknown"
    if _is_within_error(best, baseline):
        return "undecided"
    return "better" if _loss(best) < _loss(baseline) else "worse"
