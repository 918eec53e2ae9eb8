"""Runs with other losses and other noise: exact, the same bytes when they are stopped, and each setting counts."""

from collections.abc import Callable

import pytest
import torch
from PIL import Image

from lorasmith.data import augmentation
from lorasmith.data.types import LOSS_MASK
from lorasmith.engine import pictures
from lorasmith.errors import ExitCode
from tests.end_to_end.workshop import Values, Workshop, load, stage

MakeWorkshop = Callable[[str], Workshop]
STEPS, FIRST = 8, 3
BASE: Values = {("training", "batch_size"): 2, ("optimizer", "lr"): 1e-3}
ROWS: dict[str, Values] = {
    "huber, offset and perturbation": {
        ("loss", "loss_type"): "huber",
        ("loss", "min_snr_gamma"): 5.0,
        ("noise", "offset"): 0.1,
        ("noise", "has_random_offset"): True,
        ("noise", "adaptive_scale"): 0.1,
        ("noise", "perturbation"): 0.1,
        ("noise", "has_random_perturbation"): True,
    },
    "smooth, levels and a range": {
        ("loss", "loss_type"): "smooth_l1",
        ("loss", "huber_schedule"): "exponential",
        ("loss", "debiased_estimation"): True,
        ("noise", "multires_iterations"): 6,
        ("noise", "min_timestep"): 200,
        ("noise", "max_timestep"): 900,
        ("training", "accumulation_steps"): 2,
    },
    "absolute, v, limited": {
        ("training", "scale_weight_norms"): 0.01,
        ("model", "prediction"): "v_prediction",
        ("model", "zero_terminal_snr"): "on",
        ("loss", "loss_type"): "l1",
        ("loss", "scale_v_pred"): True,
    },
}


@pytest.mark.ci
@pytest.mark.parametrize("name", ROWS)
def test_stop_and_continue_equals_straight(make_workshop: MakeWorkshop, name: str) -> None:
    values = {**BASE, **ROWS[name]}
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    assert straight.new(STEPS, values).exit_code == ExitCode.FINISHED
    pieces.new(FIRST, values)
    pieces.go_on(STEPS - FIRST)
    assert pieces.digest() == straight.digest()
    assert pieces.losses() == straight.losses()
    assert sorted(straight.losses()) == list(range(1, STEPS + 1))


COUNTED: dict[str, Values] = {
    "loss": {("loss", "loss_type"): "l1"},
    "weighting": {("loss", "debiased_estimation"): True},
    "noise": {("noise", "offset"): 0.1},
    "perturbation": {("noise", "perturbation"): 0.1},
    "timesteps": {("noise", "max_timestep"): 500},
}


def test_each_setting_counts(make_workshop: MakeWorkshop) -> None:
    plain = make_workshop("plain")
    plain.new(2, BASE)
    digests = {plain.digest()}
    for name, values in COUNTED.items():
        other = make_workshop(name)
        assert other.new(2, {**BASE, **values}).exit_code == ExitCode.FINISHED
        digests.add(other.digest())
    assert len(digests) == 1 + len(COUNTED)


def put_masks(workshop: Workshop) -> Values:
    """Masks of which the left half is white, for every picture."""
    folder = workshop.folder / "lora_train_set"
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as picture:
            mask = Image.new("L", picture.size, 0)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        target = workshop.folder / "masks" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        mask.save(target)
    return {("loss", "masked_loss"): True, ("loss", "mask_folder"): "masks"}


def test_masks(make_workshop: MakeWorkshop) -> None:
    """They count, a run with them continues to the same bytes, and a changed mask is a change of the pictures."""
    straight, pieces, plain = make_workshop("straight"), make_workshop("pieces"), make_workshop("plain")
    plain.new(4, BASE)
    straight.new(4, {**BASE, **put_masks(straight)})
    pieces.new(1, {**BASE, **put_masks(pieces)})
    pieces.go_on(3)
    assert pieces.digest() == straight.digest() != plain.digest()
    assert all(0 < loss < plain.losses()[step] for step, loss in straight.losses().items())
    path = next((straight.folder / "masks").rglob("*.png"))
    with Image.open(path) as mask:
        Image.new("L", mask.size, 255).save(path)
    assert [one.code for one in straight.go_on(1).warned] == ["pictures_changed"]


def test_a_black_mask_is_named(workshop: Workshop) -> None:
    values = put_masks(workshop)
    path = sorted((workshop.folder / "masks").rglob("*.png"))[0]
    with Image.open(path) as mask:
        Image.new("L", mask.size, 0).save(path)
    (warned,) = workshop.new(1, values).warned
    assert (warned.code, warned.fields) == ("masks_black", {"count": 1, "first": path.name})


def test_opaque_pictures_count_in_full(make_workshop: MakeWorkshop) -> None:
    plain, alpha = make_workshop("plain"), make_workshop("alpha")
    plain.new(2, BASE)
    alpha.new(2, {**BASE, ("loss", "alpha_mask"): True})
    assert alpha.digest() == plain.digest()


@pytest.mark.parametrize("is_live", [False, True])
def test_masks_are_mirrored_with_their_pictures(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, is_live: bool
) -> None:
    """Of masks whose left half is white, a mirrored picture has the right half: encoded beforehand, or as it is used
    where colours may change (which are switched on here and never drawn)."""
    monkeypatch.setattr(augmentation, "TINTED", 0.0)
    if is_live:
        monkeypatch.setattr(pictures, "PLAIN", None)  # then nothing that was encoded beforehand is taken
    values = {**put_masks(workshop), ("augmentation", "flip"): True, ("augmentation", "color"): is_live}
    stage(workshop.start_new(12, values))
    loaded = load(workshop.run, stop_at=12)
    seen = set()
    for step in range(1, 13):
        batch = loaded.batches.at(step, 0)[1]
        mask, half = batch.inputs[LOSS_MASK][0], batch.latents.shape[-1] // 2
        as_cached = torch.equal(batch.latents[0], loaded.batches.cached[batch.example_ids[0]].latents)
        white, black = (mask[:, :half], mask[:, half:]) if as_cached else (mask[:, half:], mask[:, :half])
        assert white.min() == 1 and black.max() == 0
        seen.add(as_cached)
    assert seen == {False, True}
