"""Every family on a CUDA device: captured steps, frozen weights in other forms and places, evaluations with samples.

Between forward and update of a step nothing waits for the device, in any of them.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorasmith.errors import ExitCode
from lorasmith.evaluation import evaluator
from lorasmith.families import FAMILIES
from lorasmith.runs.events import Evaluated, RunStarted
from tests.end_to_end.test_gpu import refuse_waits
from tests.end_to_end.workshop import Values, Workshop
from tests.evaluation.few_steps import sample_in
from tests.families.tiny import MINIATURES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

MakeWorkshop = Callable[[str], Workshop]
UNETS = ("sd15", "sd2", "sdxl")
AWAY: dict[str, Values] = {
    "bf16, away": {("model", "base_offload"): 1.0, ("training", "gradient_checkpointing"): "block"},
    "int8, half of it away": {
        ("model", "base_precision"): "int8",
        ("model", "base_offload"): 0.5,
        ("training", "gradient_checkpointing"): "offload",
    },
}
STORED: dict[str, Values] = {
    "nf4": {("model", "base_precision"): "nf4", ("training", "gradient_checkpointing"): "selective"},
    "w8a8": {("model", "base_precision"): "w8a8", ("training", "gradient_checkpointing"): "feed-forward"},
    "fp8": {("model", "base_precision"): "fp8", ("training", "gradient_checkpointing"): "block"},
}
LANES = {**AWAY, **STORED}
# A UNet and a transformer stand for the others where nothing moves.
ROWS = [(family, lane) for family in sorted(FAMILIES) for lane in AWAY] + [
    (family, lane) for family in ("sd15", "krea2") for lane in STORED
]


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def base_model(family: str, tmp_path: Path) -> Path:
    return MINIATURES[family](tmp_path / "base_model")


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_waits(monkeypatch)


def values_for(family: str) -> Values:
    """Text encoders trained where the family can; an accumulated step of two shapes."""
    return {
        ("machine", "device"): "cuda",
        ("dataset", "resolution"): 64,
        ("training", "batch_size"): 2,
        ("training", "accumulation_steps"): 2,
        ("adapter", "train_text_encoder"): family in UNETS,
    }


def test_captured_and_watched_it_has_the_bytes_of_eager_steps(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1.0)
    sample_in(monkeypatch, 2)
    watched: Values = {
        ("evaluation", "every"): 2,
        ("evaluation", "examples"): 1,
        ("evaluation", "sample_prompts"): ("a red ring",),
    }
    apart: Values = {**values_for(family), ("dataset", "hold_out"): 1}
    eager, graph = make_workshop("eager"), make_workshop("graph")
    assert eager.new(4, {**apart, ("machine", "execution"): "eager"}).exit_code == ExitCode.FINISHED
    outcome = graph.new(4, {**apart, **watched})
    assert outcome.exit_code == ExitCode.FINISHED and not outcome.warned
    assert outcome.of(RunStarted)[0].fingerprint["execution"] == "graph"
    evaluated = [event for event in outcome.of(Evaluated) if not event.is_control]
    assert [event.step for event in evaluated] == [2, 4] and all(event.samples for event in evaluated)
    assert graph.losses() == eager.losses()
    assert graph.digest() == eager.digest()


@pytest.mark.parametrize(("family", "lane"), ROWS)
def test_a_lane_continues_to_the_same_bytes(make_workshop: MakeWorkshop, family: str, lane: str) -> None:
    values: Values = {**values_for(family), ("model", "precision"): "bf16", **LANES[lane]}
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    outcome = straight.new(3, values)
    assert outcome.exit_code == ExitCode.FINISHED and not outcome.warned
    assert pieces.new(3, values, stop_after=1).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None).exit_code == ExitCode.FINISHED
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()
