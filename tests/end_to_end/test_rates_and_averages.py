"""Optimizers, schedules, rates by group and averages: 8 steps are 3 + 5 with evaluations on the way, to the bit."""

from collections.abc import Callable

import pytest
import safetensors.torch
import torch

from lorasmith.errors import ExitCode
from lorasmith.runs.events import Evaluated
from tests.end_to_end.workshop import Values, Workshop
from tests.evaluation.few_steps import sample_in

MakeWorkshop = Callable[[str], Workshop]
STEPS, CUT = 8, 3
WATCHED: Values = {
    ("evaluation", "every"): 2,
    ("evaluation", "examples"): 1,
    ("cadence", "save_every"): 3,
}
BASE: Values = {
    ("training", "batch_size"): 2,
    ("lr_schedule", "horizon_steps"): STEPS,
    ("optimizer", "lr"): 1e-3,
    ("export", "save_precision"): "fp32",
}
WAYS: dict[str, Values] = {
    "schedule-free": {("optimizer", "name"): "adamwschedulefree"},
    "prodigy, schedule-free": {("optimizer", "name"): "prodigyplusschedulefree", ("optimizer", "lr"): 1.0},
    "average": {("training", "ema_decay"): 0.9},
    "relative steps": {("optimizer", "name"): "transformers.adafactor"},
    "rates by group": {
        ("adapter", "train_text_encoder"): True,
        ("optimizer", "text_encoder_lr"): 5e-4,
        ("optimizer", "block_lrs"): {"down_blocks.1": 0.5},
        ("optimizer", "loraplus_lr_ratio"): 16.0,
        ("lr_schedule", "shape"): "polynomial",
        ("lr_schedule", "warmup_steps"): 3,
    },
    "all in bfloat16": {
        ("training", "full_bf16"): True,
        ("training", "ema_decay"): 0.5,
        ("training", "accumulation_steps"): 2,
        ("model", "precision"): "bf16",
    },
    "frozen weights in 8 bits": {("model", "base_precision"): "fp8", ("adapter", "train_text_encoder"): True},
    "a scheduler's class": {
        ("lr_schedule", "shape"): "torch.optim.lr_scheduler.StepLR",
        ("lr_schedule", "args"): {"step_size": 2, "gamma": 0.5},
    },
}
OWN_WEIGHTS = ("schedule-free", "prodigy, schedule-free", "average", "all in bfloat16")


@pytest.mark.ci
@pytest.mark.parametrize("way", WAYS)
def test_cut_and_watched_equals_straight(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """And the exported weights are those to be used: of schedule-free optimizers and averages others than those of the
    training, of all else the same."""
    sample_in(monkeypatch, 2)  # nobody looks at the pictures
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    outcome = straight.new(STEPS, {**BASE, **WAYS[way]})
    assert "resume_not_exact" not in [warned.code for warned in outcome.warned]
    pieces.new(CUT, {**BASE, **WAYS[way], **WATCHED})
    assert pieces.go_on(STEPS - CUT).exit_code == ExitCode.FINISHED
    assert [one.step for one in pieces.events() if isinstance(one, Evaluated)][-1] == STEPS
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()
    files = [one.run.root / "last.safetensors" for one in (straight, pieces)]
    whole, cut = (safetensors.torch.load_file(file) for file in files)
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
    sums = [
        sum(float(tensor.double().abs().sum()) for key, tensor in found.items() if "lora_up" in key)
        for found in (whole, straight.adapter())
    ]
    assert (sums[0] == pytest.approx(sums[1], rel=1e-9)) != (way in OWN_WEIGHTS)
