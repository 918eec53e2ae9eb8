"""P1, P2 and P3 where options meet: a table of runs in which each pair of choices occurs at least once.

The same run once straight, and once stopped and continued while it saves, evaluates and keeps other files: the same
number of updates, the same losses, the same bytes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from lorasmith.demo.miniature import draw_pictures
from lorasmith.errors import ExitCode
from lorasmith.evaluation import evaluator
from lorasmith.runs.events import StepCompleted
from tests.end_to_end.pairs import pairwise
from tests.end_to_end.workshop import Values, Workshop
from tests.evaluation.few_steps import sample_in
from tests.families.unet_miniature import make_model

pytestmark = pytest.mark.ci

MakeWorkshop = Callable[[str], Workshop]
STEPS, STOP = 6, 3

FAMILY = "family"  # which model, not a setting
COLUMNS: dict[str, Sequence[Values]] = {
    FAMILY: ({("", FAMILY): "sd15"}, {("", FAMILY): "sdxl"}, {("", FAMILY): "sd2"}),
    "precision": ({("model", "precision"): "fp32"}, {("model", "precision"): "bf16"}),
    "kind": (
        *({("adapter", "kind"): kind} for kind in ("lora", "loha", "lokr", "dora")),
        # What LoKr or DoRA does not have.
        {("adapter", "kind"): "lora", ("adapter", "rank_dropout"): 0.3, ("model", "base_precision"): "fp8"},
        {("adapter", "kind"): "loha", ("training", "full_bf16"): True, ("model", "precision"): "bf16"},
    ),
    "layers": ({}, {("adapter", "conv_rank"): 4}, {("adapter", "block_ranks"): {"down_blocks": 2}}),
    "encoders": ({}, {("adapter", "train_text_encoder"): True}),
    "dropout": ({}, {("adapter", "dropout"): 0.2}, {("adapter", "module_dropout"): 0.2}),
    "batch": (
        {},
        {("training", "batch_size"): 2},
        {("training", "accumulation_steps"): 2},
        {("training", "batch_size"): 2, ("training", "accumulation_steps"): 4},
    ),
    "memory": ({}, {("training", "gradient_checkpointing"): True}),
    "loss": (
        {},
        {("loss", "loss_type"): "huber", ("loss", "min_snr_gamma"): 5.0},
        {("loss", "loss_type"): "smooth_l1", ("loss", "huber_schedule"): "exponential"},
        {("loss", "loss_type"): "l1", ("loss", "debiased_estimation"): True},
    ),
    "noise": (
        {},
        {("noise", "offset"): 0.05, ("noise", "has_random_offset"): True, ("noise", "adaptive_scale"): 0.01},
        {("noise", "multires_iterations"): 6, ("noise", "min_timestep"): 100},
        {("noise", "perturbation"): 0.1, ("noise", "max_timestep"): 900},
    ),
    "captions": (
        {},
        {("captions", "shuffle"): True, ("captions", "keep_tokens"): 1, ("captions", "tag_dropout"): 0.3},
        {
            ("captions", "dropout"): 0.3,
            ("captions", "prefix"): "a {red|blue} thing",
            ("captions", "has_wildcards"): True,
        },
        {("captions", "warmup_steps"): 4.0, ("captions", "dropout_every_n_epochs"): 2},
    ),
    "text": ({}, {("model", "max_token_length"): 150, ("model", "weighted_captions"): True}),
    "pictures": (
        {},
        {("augmentation", "flip"): True, ("augmentation", "random_crop"): True},
        {("augmentation", "color"): True, ("dataset", "bucket_rule"): "sd-scripts"},
        {("augmentation", "flip"): True, ("dataset", "enable_bucket"): False},
    ),
    "regularisation": ({}, {("dataset", "reg_folder"): "reg", ("loss", "prior_loss_weight"): 0.5}),
    "updates": (
        {},
        {("training", "ema_decay"): 0.9},
        {("training", "max_grad_norm"): 0.0},
    ),
    "optimizer": (
        {},
        {("optimizer", "block_lrs"): {"up_blocks": 0.5}},  # Prodigy takes a single rate
        {("optimizer", "name"): "torch.optim.RMSprop"},
        {("optimizer", "name"): "lion"},
        {("optimizer", "name"): "prodigy", ("optimizer", "lr"): 1.0},
        {("optimizer", "name"): "adafactor"},
    ),
    "schedule": (
        {},
        {("lr_schedule", "shape"): "cosine", ("lr_schedule", "warmup_steps"): 2},
        {("lr_schedule", "shape"): "cosine_with_restarts:2"},
    ),
    "scaling": ({}, {("adapter", "rslora"): True}, {("adapter", "alpha"): 1.0}),
}
ROWS = [
    {at: value for column, choice in zip(COLUMNS.values(), row, strict=True) for at, value in column[choice].items()}
    for row in pairwise([len(column) for column in COLUMNS.values()])
]
BASE: Values = {("optimizer", "lr"): 1e-3, ("lr_schedule", "horizon_steps"): STEPS, ("adapter", "rank"): 4}
OBSERVED: Values = {
    ("cadence", "save_every"): 2,
    ("cadence", "keep_states"): 1,
    ("evaluation", "every"): 2,
    ("evaluation", "examples"): 1,
}


def test_each_pair_of_choices_meets() -> None:
    sizes = [3, 2, 4, 2]
    rows = pairwise(sizes)
    met = {pair for row in rows for pair in combinations(enumerate(row), 2)}
    assert len(met) == sum(one * other for one, other in combinations(sizes, 2))
    assert len(rows) < 24  # of all 48


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    families = [str(choice["", FAMILY]) for choice in COLUMNS[FAMILY]]
    return {name: make_model(folder / name, family=name, size="nano") for name in families}


@pytest.fixture(scope="module")
def known_things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Regularisation pictures."""
    folder = tmp_path_factory.mktemp("reg")
    draw_pictures(folder, 2, seed=5, size=(64, 64), repeats=1)
    return folder


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(str(value) for value in row.values())[:60])
def test_stopped_and_observed_it_is_the_same_run(
    make_workshop: MakeWorkshop,
    models: dict[str, Path],
    known_things: Path,
    monkeypatch: pytest.MonkeyPatch,
    row: dict[tuple[str, str], Any],
) -> None:
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1.0)
    sample_in(monkeypatch, 2)
    values = {**BASE, ("model", "base_model"): str(models[row["", FAMILY]])}
    values |= {at: value for at, value in row.items() if at[0]}
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    for workshop in (straight, pieces):
        (workshop.folder / "reg").symlink_to(known_things)
    assert straight.new(STEPS, values).exit_code == ExitCode.FINISHED
    # A target of its own would change what is given as a share of the target.
    assert pieces.new(STEPS, {**values, **OBSERVED}, stop_after=STOP).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None).exit_code == ExitCode.FINISHED

    for other in (straight, pieces):
        updates = Counter(event.step for event in other.events() if isinstance(event, StepCompleted))
        assert updates == dict.fromkeys(range(1, STEPS + 1), 1)
        assert other.train_state()["step"] == STEPS
        assert other.losses() == straight.losses()
        assert other.digest() == straight.digest()
