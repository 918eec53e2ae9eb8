"""It learns: a LoRA lowers the loss on its own pictures, and only there, and only with a learning rate."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from lorasmith.adapters import ADAPTERS
from lorasmith.data.types import Batch
from lorasmith.demo.miniature import draw_pictures, make_model
from lorasmith.diffusion.draw import Draw, draw_numbers
from lorasmith.diffusion.process import apply_noise
from lorasmith.errors import ExitCode
from lorasmith.session.loaded import LoadedRun
from tests.end_to_end.workshop import Workshop, load, stage

pytestmark = pytest.mark.slow

PRETRAINING_STEPS = 250
STEPS = 140
DRAWS = 12  # of noise and a timestep, for each picture
# LoKr's matrices are small, as both of its factors are, and are usually trained with a larger learning rate. In layers
# as narrow as these, factors as equal as possible would leave too few numbers to learn with: 80 for 32 x 32.
LOKR = {"kind": "lokr", "lokr_factor": 2}
# A rate that falls to zero: at a constant one the loss of the last step depends on the last few draws of noise, and so,
# by a tenth, on the machine's last bits. Whichever the draws of the base model's training, what follows ends at 0.64 to
# 0.84 of the loss before.
LEARNING = {("training", "batch_size"): 4, ("lr_schedule", "shape"): "cosine"}


@pytest.fixture(scope="module")
def teach(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each family once: pytest would make a fixture with a parameter again for each test."""
    return cache(lambda family: _taught(family, tmp_path_factory.mktemp("taught")))


@pytest.fixture
def taught(request: pytest.FixtureRequest, teach: Callable[[str], Path]) -> Path:
    return teach(request.param)


def _taught(family: str, folder: Path) -> Path:
    """A small model whose whole UNet was trained briefly on drawn pictures of its own; a folder with `base` in it."""
    make_model(folder / "base", family=family, size="miniature" if family == "sd15" else "nano")
    draw_pictures(folder / "lora_train_set", 24, seed=11, size=(64, 64), repeats=1)
    with pytest.MonkeyPatch.context() as patch:
        workshop = Workshop(folder, folder / "base", patch)
        stage(workshop.start_new(1))
        loaded = load(workshop.run, stop_at=1)
    final = _pretrain(loaded, folder / "base")
    assert final < 0.8, "predicting zero gives 1.0: nothing was learned that a LoRA could build on"
    return folder


def _pretrain(loaded: LoadedRun, base: Path) -> float:
    cached, family = loaded.batches.cached, loaded.context.family
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet").train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    torch.use_deterministic_algorithms(False)
    losses: list[float] = []
    for step in range(PRETRAINING_STEPS):
        rows = torch.randperm(len(cached), generator=torch.Generator().manual_seed(step))[:6]
        inputs = family.collate([cached[number].inputs for number in rows])
        noised = apply_noise(
            loaded.context.process, inputs["latents"], draw_numbers(Draw(5, step, 0), inputs["latents"])
        )
        conditioning = family.conditioning({}, inputs)
        predicted = family.predict({"denoiser": unet}, noised.noisy_latents, noised.timesteps, conditioning)
        loss = (predicted - noised.target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / PRETRAINING_STEPS)
        optimizer.step()
        losses.append(float(loss.detach()))
    unet.save_pretrained(base / "unet")
    return sum(losses[-50:]) / 50


def mean_loss(loaded: LoadedRun) -> float:
    """Over every trained picture, at noise and timesteps that are the same whenever this is asked."""
    loaded.state.adapter.set_training(False)
    total: list[Tensor] = []
    with torch.no_grad():
        for number in range(len(loaded.trained)):
            inputs = loaded.context.family.collate([loaded.batches.cached[number].inputs] * DRAWS)
            batch = Batch(inputs, (number,) * DRAWS)
            total.append(loaded.context.losses(batch, draw_numbers(Draw(99, number, 0), batch.latents)))
    return float(torch.cat(total).mean())


def before_and_after(own: Workshop, strange: Path, lr: float, **adapter: Any) -> tuple[float, ...]:
    """The loss on its own pictures before and after training, then on another set's before and after."""
    values = {**LEARNING, ("optimizer", "lr"): lr, **{("adapter", name): value for name, value in adapter.items()}}
    assert own.new(STEPS, values).exit_code == ExitCode.FINISHED
    found = []
    for pictures in (own.folder / "lora_train_set", strange):
        for resume in (None, own.state_folder()):
            stage(own.start_new(STEPS, {**values, ("dataset", "folder"): str(pictures)}))
            found.append(mean_loss(load(own.run, stop_at=STEPS + 1, resume=resume)))
            shutil.rmtree(own.run.staging)
    return tuple(found)


@pytest.fixture
def own(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    folder = tmp_path / "own"
    draw_pictures(folder / "lora_train_set", 4, seed=77, size=(64, 64), repeats=1)
    return Workshop(folder, taught / "base", monkeypatch)


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    draw_pictures(tmp_path / "strange", 4, seed=500, size=(64, 64), repeats=1)
    return tmp_path / "strange"


CHOICES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    **{kind: ({"kind": kind}, ("sd15", "sd2" if kind == "dora" else "sdxl")) for kind in ADAPTERS if kind != "lokr"},
    "lokr": (LOKR, ("sd15", "sd2")),
    "convolutions": ({"conv_rank": 8}, ("sd2",)),
    "convolutions alone": ({"targets": "unet-convblock-only", "rslora": True, "alpha": 4.0}, ("sd15",)),
    "ranks and dropout": ({"block_ranks": {"down_blocks": 4}, "rank_dropout": 0.1, "module_dropout": 0.1}, ("sdxl",)),
}
"""What is trained, and the families it is tried on: every kind on SD 1.5 and on another, every choice somewhere."""


@pytest.mark.parametrize(
    ("taught", "adapter"),
    [
        pytest.param(family, adapter, id=f"{family}-{name}")
        for family in ("sd15", "sd2", "sdxl")
        for name, (adapter, families) in CHOICES.items()
        if family in families
    ],
    indirect=["taught"],
)
def test_the_loss_falls_on_its_own_pictures(own: Workshop, strange: Path, adapter: dict[str, Any]) -> None:
    before, after, other_before, other_after = before_and_after(
        own, strange, lr=1e-2 if adapter == LOKR else 3e-3, **adapter
    )
    figures = f"own {before:.4f} -> {after:.4f}, other {other_before:.4f} -> {other_after:.4f}"
    assert after <= 0.9 * before, figures
    assert other_after > 0.9 * other_before, figures


@pytest.mark.parametrize("taught", ["sdxl"], indirect=True)
def test_not_without_a_learning_rate(own: Workshop, strange: Path) -> None:
    before, after, _, _ = before_and_after(own, strange, lr=0.0)
    assert after == before
