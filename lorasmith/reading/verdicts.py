"""What the curves mean for whoever trained: which step to use, and signs that something is wrong.

Codes and numbers; every code has its sentence in the catalogs. Nothing is claimed that the error bars do not carry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorasmith.reading.evaluations import VALIDATION, difference, error_of, is_held_out, value_of
from lorasmith.reading.fold import Curves
from lorasmith.runs.events import Evaluated

COPY_SIMILARITY = 0.97  # cosine of CLIP embeddings above which two pictures look the same to it
MIN_FOR_OVER_TRAINING = 3


@dataclass(frozen=True, slots=True)
class Export:
    """A LoRA file, by what the ledger says of it."""

    step: int
    path: str
    sha256: str


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
    last_step: int | None = None  # the last one that has an export and was measured
    last_loss: float | None = None
    last_standard_error: float | None = None
    difference: float | None = None  # of the last one's loss from that of this step, and its standard error
    difference_error: float | None = None
    not_distinguishable: tuple[int, ...] = ()  # measured steps with an export, within the error of the best
    against_baseline: str = "unknown"  # validation against the adapter off: better, worse, undecided, unknown


@dataclass(frozen=True, slots=True)
class OverTraining:
    """Whether validation rises while the training loss falls: the sentence `over_training.<verdict>`."""

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
    example: str | None  # the picture it was drawn from, where there is one
    nearest: str
    similarity: float
    baseline_similarity: float | None  # the same with the adapter off
    is_from_itself: bool  # it was drawn from that very picture: likeness says nothing


@dataclass(frozen=True, slots=True)
class Memorisation:
    """Whether samples copy training pictures: the sentence `memorisation.<verdict>`."""

    verdict: str  # copies, none, not_measured
    step: int | None = None
    samples: tuple[Nearest, ...] = ()  # likest first


def recommended(curves: Curves, exports: Sequence[Export], *, are_gone: bool = False) -> Recommendation:
    """The step with the lowest validation loss on held-out pictures among those that have an export. `are_gone`: there
    were exports, and none is there any more."""
    if not exports:
        return Recommendation("exports_gone" if are_gone else "nothing_exported")
    files: dict[int, Export] = {}
    for one in exports:
        files.setdefault(one.step, one)
    last_file = files[max(files)]
    plain: dict[str, Any] = {"step": last_file.step, "path": last_file.path, "sha256": last_file.sha256}
    measured = [one for one in curves.evaluations if value_of(one, VALIDATION) is not None]
    if not measured:
        return Recommendation("not_evaluated", **plain)
    if not any(map(is_held_out, measured)):
        return Recommendation("trained_pictures", **plain)
    newest = next(one for one in reversed(measured) if is_held_out(one))
    usable = [one for one in measured if is_held_out(one) and one.step in files and _compares(one, newest)]
    if not usable:
        return Recommendation("not_evaluated", **plain)
    best = min(usable, key=_loss)
    last = usable[-1]
    equal = tuple(one.step for one in usable if one is not best and _is_within_error(best, one))
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


def over_training(curves: Curves) -> OverTraining:
    """Validation that rises by more than its error since its lowest point, while the average training loss falls."""
    measured = [one for one in curves.evaluations if value_of(one, VALIDATION) is not None]
    if not measured:
        return OverTraining("not_evaluated")
    held_out = [one for one in measured if is_held_out(one)]
    if not held_out:
        return OverTraining("trained_pictures")
    held_out = [one for one in held_out if _compares(one, held_out[-1])]
    if len(held_out) < MIN_FOR_OVER_TRAINING:
        return OverTraining("too_few")
    best, last = min(held_out, key=_loss), held_out[-1]
    averages = {point.step: point.average_loss for point in curves.points}
    fall = averages.get(best.step, 0.0) - averages.get(last.step, 0.0)
    rise, error = difference(last, best)
    numbers: dict[str, Any] = {
        "best_step": best.step,
        "last_step": last.step,
        "rise": rise,
        "error": error,
        "fall": fall,
    }
    if best is last or fall <= 0:
        return OverTraining("not_seen", **numbers)
    return OverTraining("within_error" if _is_within_error(best, last) else "seen", **numbers)


def memorisation(curves: Curves) -> Memorisation:
    """How like the newest samples are to training pictures, beside the same with the adapter off."""
    for one in reversed(curves.evaluations):
        found = [_nearest(sample, curves.baseline) for sample in one.samples if _has_nearest(sample)]
        if not found:
            continue
        found.sort(key=lambda sample: sample.similarity, reverse=True)
        is_copy = any(
            not sample.is_from_itself
            and sample.similarity >= COPY_SIMILARITY
            and sample.similarity > (sample.baseline_similarity or 0.0)
            for sample in found
        )
        return Memorisation("copies" if is_copy else "none", one.step, tuple(found))
    return Memorisation("not_measured")


def sample_key(sample: Mapping[str, Any]) -> tuple[str, str, str]:
    """What makes samples of different steps comparable: the same picture, caption and seed."""
    return str(sample.get("example") or ""), str(sample.get("prompt") or ""), str(sample.get("seed"))


def _has_nearest(sample: Mapping[str, Any]) -> bool:
    return bool(sample.get("nearest")) and sample.get("nearest_similarity") is not None


def _nearest(sample: Mapping[str, Any], baseline: Evaluated | None) -> Nearest:
    example = sample.get("example")
    same = [one for one in (baseline.samples if baseline else []) if sample_key(one) == sample_key(sample)]
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


def _compares(one: Evaluated, other: Evaluated) -> bool:
    """Whether both were measured on the same pictures: means over other sets are not compared. Ledgers of older
    versions tell their number alone."""
    first, second = one.validation or {}, other.validation or {}
    named = {validation["pictures"] for validation in (first, second) if validation.get("pictures")}
    return first.get("examples") == second.get("examples") and len(named) < 2


def _is_within_error(one: Evaluated, other: Evaluated) -> bool:
    """Whether two steps cannot be told apart: their difference is no more than its standard error."""
    apart, error = difference(one, other)
    return error is None or abs(apart) <= error


def _against_baseline(best: Evaluated, baseline: Evaluated | None) -> str:
    if baseline is None or value_of(baseline, VALIDATION) is None or not _compares(baseline, best):
        return "unknown"
    if _is_within_error(best, baseline):
        return "undecided"
    return "better" if _loss(best) < _loss(baseline) else "worse"
