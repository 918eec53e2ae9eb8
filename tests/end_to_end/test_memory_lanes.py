"""Lanes for small cards: 6 steps are 3 + 3 in each, to the bit; where they only save memory, the bits are also those of
a run without them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lorasmith.errors import ExitCode
from tests.end_to_end.workshop import Values, Workshop
from tests.families.tiny import MINIATURES

MakeWorkshop = Callable[[str], Workshop]
STEPS, CUT = 6, 3
BASE: Values = {
    ("training", "batch_size"): 2,
    ("lr_schedule", "horizon_steps"): STEPS,
    ("optimizer", "lr"): 1e-3,
    ("export", "save_precision"): "fp32",
    ("adapter", "train_text_encoder"): True,
}
LANES: dict[str, Values] = {
    form: {("model", "base_precision"): form} for form in ("bf16", "fp8", "int8", "w8a8", "nf4")
} | {
    "int8, half of it away": {
        ("model", "base_precision"): "int8",
        ("model", "base_offload"): 0.5,
        ("training", "gradient_checkpointing"): "offload",
    }
}
BY_DEFAULT = "int8, half of it away"
SAVES_MEMORY_ONLY: dict[str, Values] = {
    level: {("training", "gradient_checkpointing"): level}
    for level in ("elementwise", "feed-forward", "selective", "block", "offload")
}


def exported(workshop: Workshop) -> dict[str, Tensor]:
    return safetensors.torch.load_file(workshop.run.root / "last.safetensors")


def is_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "lane", [pytest.param(one, marks=[] if one == BY_DEFAULT else [pytest.mark.ci]) for one in LANES]
)
def test_a_lane_continues_to_the_bit(make_workshop: MakeWorkshop, lane: str) -> None:
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    straight.new(STEPS, {**BASE, **LANES[lane]})
    pieces.new(CUT, {**BASE, **LANES[lane]})
    outcome = pieces.go_on(STEPS - CUT)
    assert outcome.exit_code == ExitCode.FINISHED
    assert not outcome.warned
    assert is_same(exported(straight), exported(pieces))
    assert not all(bool((tensor == 0).all()) for name, tensor in exported(straight).items() if "lora_up" in name)


@pytest.mark.ci
@pytest.mark.parametrize("form", [BY_DEFAULT, "nf4"])
@pytest.mark.parametrize("family", ["krea2", "anima", "zimage", "qwen_image21", "flux2_klein", "flux1"])
def test_a_lane_of_flow_matching_continues_to_the_bit(
    make_workshop: MakeWorkshop, tmp_path: Path, family: str, form: str
) -> None:
    model = {("model", "base_model"): str(MINIATURES[family](tmp_path / "model")), ("model", "precision"): "bf16"}
    values = {**BASE, ("adapter", "train_text_encoder"): False, ("dataset", "resolution"): 64, **model, **LANES[form]}
    straight, pieces, plain = (make_workshop(name) for name in ("straight", "pieces", "plain"))
    straight.new(3, {**values, ("lr_schedule", "horizon_steps"): 3})
    assert pieces.new(3, {**values, ("lr_schedule", "horizon_steps"): 3}, stop_after=1).exit_code == ExitCode.STOPPED
    outcome = pieces.go_on(2)
    assert outcome.exit_code == ExitCode.FINISHED and not outcome.warned
    assert pieces.losses() == straight.losses() and pieces.digest() == straight.digest()
    plain.new(1, {**values, ("model", "base_precision"): "auto", ("model", "base_offload"): 0.0})
    assert plain.losses()[1] != straight.losses()[1]
    assert plain.losses()[1] == pytest.approx(straight.losses()[1], rel=0.2)


@pytest.mark.ci
def test_activations_that_are_computed_twice_change_no_bit(make_workshop: MakeWorkshop) -> None:
    runs = {}
    for lane, values in {"plain": {}, **SAVES_MEMORY_ONLY}.items():
        runs[lane] = make_workshop(lane)
        runs[lane].new(STEPS, {**BASE, ("adapter", "dropout"): 0.2, **values})
    assert all(is_same(exported(run), exported(runs["plain"])) for run in runs.values())


def test_other_frozen_weights_are_another_environment(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop("changed")
    workshop.new(1, BASE)
    outcome = workshop.go_on(1, {("model", "base_precision"): "int8"})
    (changed,) = [warned for warned in outcome.warned if warned.code == "fingerprint_changed"]
    assert "base_precision: auto -> int8" in str(changed.fields)


@pytest.mark.ci
def test_on_a_cpu_an_offloaded_base_is_another_environment(make_workshop: MakeWorkshop) -> None:
    """Its layers compute as those of a stored base, which are those of `--base-precision bf16` where a run has it."""
    away = {("model", "base_offload"): 1.0}
    workshop, stored = make_workshop("changed"), make_workshop("stored")
    workshop.new(1, {**BASE, ("model", "precision"): "bf16"})
    (changed,) = workshop.go_on(1, away).warned
    assert "base_precision: auto -> bf16" in str(changed.fields)
    stored.new(1, {**BASE, ("model", "precision"): "bf16", ("model", "base_precision"): "bf16"})
    assert not stored.go_on(1, away).warned
