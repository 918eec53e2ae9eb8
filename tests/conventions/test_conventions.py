"""Sign and scale, shown by weights that mean something.

A miniature that diffusers' pipeline has taught to draw has a small loss under our conventions, and under no others. A
LoRA of ours draws in diffusers' pipeline what it learned.

A wrong level cannot reach the variance of the target, even of a perfect denoiser: it answers s / s' times the velocity.
Such guesses, and slight ones, are compared with the right one, example by example.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.conventions.families import FAMILIES
from tests.conventions.guesses import GUESSES, REACH_THE_VARIANCE
from tests.conventions.learned import learned, train_lora
from tests.conventions.measured import Case, Found, ask, load_case, measured
from tests.conventions.taught import asking_at_levels, teach, velocity
from tests.families.tiny import MINIATURES

pytestmark = pytest.mark.slow

# A minute each. FAULT_RUNS bounds what is run on every push, where each family is compared with its pipeline anyway.
TAUGHT = list(FAMILIES)[:1] if "FAULT_RUNS" in os.environ else list(FAMILIES)
ERRORS = 4  # standard errors by which a wrong guess is worse


@dataclass(frozen=True)
class Miniature:
    name: str
    folder: Path
    case: Case
    right: list[Found]


@pytest.fixture(scope="module", params=TAUGHT)
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    folder = MINIATURES[request.param](tmp_path_factory.mktemp(request.param) / "model")
    teach(folder, request.param)
    case = load_case(folder, request.param)
    return Miniature(request.param, folder, case, measured(case, ask))


def test_its_loss_is_far_below_the_variance_of_the_target(taught: Miniature) -> None:
    assert [found.share < 0.4 for found in taught.right] == [True, True, True], taught.right


def test_the_loss_is_that_of_the_pipeline(taught: Miniature) -> None:
    """The pipeline's own call, its own text and its own latents of the same pictures."""
    case, family = taught.case, FAMILIES[taught.name]
    pipeline = case.pipeline
    pipeline.scheduler = asking_at_levels(pipeline)
    ours, _ = ask(case, 0.5)
    with torch.no_grad():
        levels = torch.full((len(case.rows),), 0.5)
        theirs = velocity(pipeline, family, (case.latents + case.noise) / 2, levels, case.captions)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_every_wrong_guess_is_worse(taught: Miniature) -> None:
    for name, guess in GUESSES[taught.name].items():
        found = measured(taught.case, guess)
        worse = sum(wrong.losses - right.losses for wrong, right in zip(found, taught.right, strict=True))
        assert isinstance(worse, torch.Tensor)
        assert float(worse.mean()) > ERRORS * float(worse.std()) / len(worse) ** 0.5, name
        if name in REACH_THE_VARIANCE[taught.name]:
            assert found[1].share > 1, f"{name}: {found[1].share:.2f}"


def test_a_lora_learns_and_draws_what_it_learned(taught: Miniature, tmp_path: Path) -> None:
    found = learned(taught.folder, taught.name, train_lora(taught.folder, tmp_path))
    assert found.losses[1] < 0.3 * found.losses[0], found
    assert found.distances[1] < 0.7 * found.distances[0], found
