from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorasmith.reading.files import FileRecord
from lorasmith.reading.fold import Curves, curves_of
from lorasmith.reading.verdicts import find_memorisation, find_over_training, recommend
from lorasmith.runs.events import Evaluated
from tests.reading.made_up import evaluated, started, stepped

EXPORTS = [FileRecord("export", f"last-step{step}", step, "e", None) for step in (10, 20, 30)]


def measured(step: int, loss: float, *, error: float | None = 0.01, **more: Any) -> Evaluated:
    validation = {"loss": loss, "standard_error": error, "examples": 4, "is_held_out": True, **more}
    return replace(evaluated(step, Path("data")), validation=validation)


def curves(*evaluations: Evaluated, baseline: float | None = None) -> Curves:
    found = curves_of([started(Path("data"), 30), *stepped(range(1, 31)), *evaluations])
    return found if baseline is None else replace(found, baseline=measured(0, baseline))


def test_the_lowest_validation_loss_is_used_where_the_error_allows_to_say_so() -> None:
    found = recommend(curves(measured(10, 0.5), measured(20, 0.3), measured(30, 0.4), baseline=0.6), EXPORTS)
    assert (found.reason, found.step, found.path, found.last_step) == ("best", 20, "last-step20", 30)
    assert found.not_distinguishable == ()
    assert found.against_baseline == "better"
    assert found.difference == pytest.approx(0.1)


def test_a_difference_within_the_error_is_called_so() -> None:
    found = recommend(curves(measured(10, 0.5), measured(20, 0.300), measured(30, 0.305), baseline=0.301), EXPORTS)
    assert (found.reason, found.step, found.not_distinguishable) == ("not_distinguishable", 20, (30,))
    assert found.against_baseline == "undecided"


def test_of_the_files_of_a_step_the_best_is_used() -> None:
    best = FileRecord("best", "renamed-best", 20, "b", None)
    found = recommend(curves(measured(10, 0.5), measured(20, 0.3), measured(30, 0.4)), [*EXPORTS, best])
    assert (found.step, found.path, found.sha256) == (20, "renamed-best", "b")


def test_only_steps_with_an_export_can_be_used() -> None:
    found = recommend(curves(measured(10, 0.5), measured(20, 0.1), measured(30, 0.4)), [EXPORTS[0], EXPORTS[2]])
    assert (found.reason, found.step) == ("best_is_last", 30)


def test_a_single_picture_has_no_error_and_nothing_is_claimed() -> None:
    alone = {"error": None, "examples": 1, "by_example": [0.3]}
    found = recommend(curves(measured(10, 0.2, **alone), measured(20, 0.4, **alone)), EXPORTS)
    assert (found.reason, found.step) == ("error_unknown", 10)


def test_means_over_another_number_of_pictures_are_not_compared() -> None:
    found = recommend(curves(measured(10, 0.1, examples=2), measured(20, 0.3), measured(30, 0.5)), EXPORTS)
    assert found.step == 20


@pytest.mark.parametrize(
    ("evaluations", "exports", "reason", "step"),
    [
        ((), EXPORTS, "not_evaluated", 30),
        ((measured(10, 0.1, is_held_out=False),), EXPORTS, "trained_pictures", 30),
        ((measured(10, 0.1),), [], "nothing_exported", None),
    ],
)
def test_without_held_out_pictures_nothing_is_chosen(
    evaluations: tuple[Evaluated, ...], exports: list[FileRecord], reason: str, step: int | None
) -> None:
    found = recommend(curves(*evaluations), exports)
    assert (found.reason, found.step, found.loss) == (reason, step, None)
    assert recommend(curves(), [replace(export, is_there=False) for export in EXPORTS]).reason == "exports_gone"


@pytest.mark.parametrize(("last", "verdict"), [(0.40, "seen"), (0.305, "within_error"), (0.29, "not_seen")])
def test_over_training_is_validation_that_rises_beyond_its_error_while_the_loss_falls(
    last: float, verdict: str
) -> None:
    found = find_over_training(curves(measured(10, 0.5), measured(20, 0.3), measured(30, last)))
    assert found.verdict == verdict
    assert (found.fall or 0) > 0 or verdict == "not_seen"


def test_where_over_training_cannot_be_told() -> None:
    assert find_over_training(curves()).verdict == "not_evaluated"
    assert find_over_training(curves(measured(10, 0.1), measured(20, 0.3))).verdict == "too_few"
    assert find_over_training(curves(measured(10, 0.1, is_held_out=False))).verdict == "trained_pictures"


def sample(similarity: float, *, example: str = "held.png", nearest: str = "trained.png") -> dict[str, Any]:
    return {
        "path": "s.png", "prompt": "p", "seed": 1, "example": example, "nearest": nearest,
        "nearest_similarity": similarity,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("now", "baseline", "verdict"),
    [
        (sample(0.99), sample(0.6), "copies"),
        (sample(0.99), sample(0.995), "none"),  # as like with the LoRA off
        (sample(0.8), sample(0.6), "none"),
        (sample(0.99, example="trained.png"), sample(0.6, example="trained.png"), "none"),  # drawn from it
    ],
)
def test_copies_of_training_pictures(now: dict[str, Any], baseline: dict[str, Any], verdict: str) -> None:
    found = replace(
        curves(replace(measured(10, 0.1), samples=[now])), baseline=replace(measured(0, 0.1), samples=[baseline])
    )
    assert find_memorisation(found).verdict == verdict
    assert find_memorisation(found).samples[0].baseline_similarity == baseline["nearest_similarity"]


def test_copies_are_not_measured_without_clip() -> None:
    none = [{**sample(0.0), "nearest": None, "nearest_similarity": None}]
    assert find_memorisation(curves(replace(measured(10, 0.1), samples=none))).verdict == "not_measured"
