"""Runs that never were: the events and pictures of one, for what is made of them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from lorasmith.config import RunConfig
from lorasmith.runs.events import (
    AdapterExported,
    BestChosen,
    CheckpointSaved,
    DeviceChosen,
    Evaluated,
    Event,
    RunStarted,
    RunStopped,
    StepCompleted,
    WorkerEnded,
    WorkerStarted,
)
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger

T0 = 1_780_000_000.0
HELD_OUT = 4
# By share of the way: validation falls, then rises a little.
VALIDATION = {0.0: 0.182, 0.25: 0.160, 0.5: 0.149, 0.75: 0.151, 1.0: 0.158}


def config(folder: Path, **changes: Any) -> RunConfig:
    values = {("model", "base_model"): "demo", ("model", "family"): "sd15", ("dataset", "folder"): str(folder)}
    values |= {("dataset", "hold_out"): HELD_OUT, ("adapter", "rank"): 8, ("cadence", "save_every"): 75}
    return RunConfig().with_values({**values, **changes})


def started(data: Path, stop_at: int, *, attempt: int = 1, resumed_from: int | None = None, **more: Any) -> RunStarted:
    pictures = [data / "10_leaf" / f"leaf_{number:02d}.png" for number in range(12)]
    return RunStarted(
        attempt=attempt,
        time=T0 + 1000 * (attempt - 1) + 8,
        identity="0" * 64,
        resumed_from=resumed_from,
        stop_at=stop_at,
        settings=config(data).model_dump(mode="json"),
        examples=[
            {"path": str(one), "fingerprint": one.stem, "sha256": "a" * 64, "repeats": 10, "bucket": [64, 64]}
            for one in pictures
        ],
        held_out=[str(data / "10_leaf" / f"leaf_{12 + number:02d}.png") for number in range(HELD_OUT)],
        batches_per_epoch=30,
        fingerprint={"python": "3.11.7", "torch": "2.13.0", "device": "Abacus 2000", "threads": 2, "precision": "fp32"},
        **more,
    )


def stepped(numbers: Iterable[int], *, attempt: int = 1, seed: int = 7) -> list[StepCompleted]:
    noise = random.Random(seed)
    return [
        StepCompleted(
            attempt=attempt,
            time=T0 + 1000 * (attempt - 1) + 10 + 0.4 * number,
            step=number,
            epoch=(number - 1) // 30 + 1,
            loss=0.10 + 0.09 * math.exp(-number / 90) + noise.gauss(0, 0.028) ** 2 + noise.gauss(0, 0.012),
            lr={"denoiser": 1e-4 * (0.5 + 0.5 * math.cos(math.pi * number / 300))},
            grad_norm=0.2 + noise.random() * 0.1,
            example_ids=[noise.randrange(12)],
            seconds=0.38 + noise.random() * 0.05,
            peak_memory=1_400_000_000,
        )
        for number in numbers
    ]


def samples(root: Path | None, data: Path, folder: str, quality: float) -> list[dict[str, Any]]:
    """Of two held-out pictures and a prompt; drawn on disk where there is a folder."""
    made = []
    for number in range(3):
        path = f"samples/{folder}/sample_{number}.png"
        example = str(data / "10_leaf" / f"leaf_{12 + number:02d}.png") if number < 2 else None
        if root is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            leaf(number + 12, blur=1 - quality).save(root / path)
        made.append(
            {
                "path": path,
                "prompt": f"a sks leaf <number {number}>, on white" if number < 2 else "two sks leaves & a stone",
                "seed": 1000 + number,
                "example": example,
                "visual": None if example is None else 0.6 - 0.3 * quality,
                "semantic": None if example is None else 0.5 - 0.3 * quality,
                "color": None if example is None else 0.7 - 0.5 * quality,
                "nearest": str(data / "10_leaf" / f"leaf_{number:02d}.png"),
                "nearest_similarity": 0.7 + 0.2 * quality + 0.01 * number,
            }
        )
    return made


def evaluated(
    step: int,
    data: Path,
    *,
    root: Path | None = None,
    share: float = 1.0,
    attempt: int = 1,
    is_control: bool = False,
    unavailable: dict[str, str] | None = None,
    is_held_out: bool = True,
) -> Evaluated:
    missing = unavailable or {}
    quality = 0.0 if is_control else math.sqrt(share) * 0.85
    loss = VALIDATION[min(VALIDATION, key=lambda one: abs(one - (0.0 if is_control else share)))]
    shift = [-0.03, -0.01, 0.01, 0.03]
    first = random.Random(step).uniform(0.001, 0.004)
    wobble = [first, -first, first / 2, -first / 2]
    values = {"visual": 0.6 - 0.3 * quality, "semantic": 0.5 - 0.3 * quality, "color": 0.7 - 0.5 * quality}
    shown = {name: None if name in missing else value for name, value in values.items()}
    validation = {
        "loss": loss,
        "standard_error": 0.0129,
        "examples": 4,
        "is_held_out": is_held_out,
        "quantiles": [0.1, 0.5, 0.9],
        "by_quantile": [0.3, 0.12, 0.03],
        "by_example": [loss + a + b for a, b in zip(shift, wobble, strict=True)],
    }
    return Evaluated(
        attempt=attempt,
        time=T0 + 1000 * (attempt - 1) + 10.2 + 0.4 * step,
        step=step,
        is_control=is_control,
        validation=None if "validation" in missing else validation,
        unavailable=missing,
        samples=samples(root, data, "control" if is_control else f"step-{step:08d}", quality),
        seconds=3.1,
        **shown,
    )


def saved(step: int, *, attempt: int = 1, name: str = "") -> list[Event]:
    at: dict[str, Any] = {"attempt": attempt, "time": T0 + 1000 * (attempt - 1) + 10.1 + 0.4 * step, "step": step}
    return [
        CheckpointSaved(**at, path=f"state_{step}", sha256="5" * 64, seconds=0.2),
        AdapterExported(**at, path=name or f"last-step{step:08d}.safetensors", sha256="e" * 64),
    ]


def best(step: int, loss: float, *, attempt: int = 1) -> BestChosen:
    return BestChosen(
        attempt=attempt,
        time=T0 + 1000 * (attempt - 1) + 10.3 + 0.4 * step,
        step=step,
        loss=loss,
        standard_error=0.01,
        path="last-best.safetensors",
        sha256="b" * 64,
    )


def stopped(step: int | None, reason: str, *, attempt: int = 1, **more: Any) -> RunStopped:
    return RunStopped(
        attempt=attempt, time=T0 + 1000 * (attempt - 1) + 12 + 0.4 * (step or 0), step=step, reason=reason, **more
    )


def watched(attempt: int, *, status: int | None = 0, supervisor: int = 1, after: float = 140.0) -> list[Event]:
    begin = T0 + 1000 * (attempt - 1)
    found: list[Event] = [WorkerStarted(attempt=attempt, time=begin, worker_pid=2, supervisor_pid=supervisor)]
    if status is not None:
        found.append(WorkerEnded(attempt=attempt, time=begin + after, status=status))
    return found


def device() -> DeviceChosen:
    return DeviceChosen(
        attempt=1,
        time=T0 + 1,
        device="cpu",
        name="Abacus 2000",
        reason="no_accelerator",
        precision="fp32",
        precision_reason="no_bf16_units",
        threads=2,
    )


def finished(data: Path, *, root: Path | None = None, steps: int = 300, **evaluation: Any) -> list[Event]:
    """A run that was measured four times and ended as it should."""
    events: list[Event] = [device(), started(data, steps)]
    done = 0
    for number in range(1, 5):
        step = steps * number // 4
        events += stepped(range(done + 1, step + 1), seed=number)
        events += saved(step)
        if number == 1:
            events.append(evaluated(step, data, root=root, is_control=True, **evaluation))
        events.append(evaluated(step, data, root=root, share=number / 4, **evaluation))
        if number <= 2 and not evaluation:
            events.append(best(step, VALIDATION[number / 4]))
        done = step
    return [*events, saved(steps, name="last.safetensors")[1], stopped(steps, "reached")]


def written(root: Path, events: Sequence[Event], supervisor: Sequence[Event] = ()) -> RunFolder:
    """A run folder whose two ledgers hold these."""
    run = RunFolder(root)
    run.root.mkdir(parents=True, exist_ok=True)
    for path, told in ((run.ledger, events), (run.supervisor_log, supervisor)):
        if told:
            with Ledger(path) as ledger:
                for event in told:
                    ledger.append(event)
    return run


def leaf(number: int, *, blur: float = 0.0, side: int = 192) -> Image.Image:
    """A leaf on white, all the less a leaf the more `blur`."""
    noise = random.Random(number)
    colour = (40 + noise.randrange(90), 120 + noise.randrange(90), 40 + noise.randrange(60))
    grey = tuple(round(one * (1 - blur) + 128 * blur) for one in colour)
    picture = Image.new("RGB", (side, side), (250, 249, 244))
    draw = ImageDraw.Draw(picture)
    wide = side * (0.18 + 0.14 * (1 - blur))
    middle = side / 2
    draw.ellipse((middle - wide, side * 0.15, middle + wide, side * 0.85), fill=(grey[0], grey[1], grey[2]))
    draw.line((middle, side * 0.15, middle, side * 0.95), fill=(90, 60, 30), width=max(2, side // 40))
    for rib in range(4):
        height = side * (0.35 + 0.12 * rib)
        draw.line((middle, height, middle + wide * (1 - blur), height - side * 0.1), fill=(235, 240, 220), width=2)
    return picture


def draw_pictures(data: Path) -> None:
    """The training set, the held-out pictures too."""
    folder = data / "10_leaf"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(12 + HELD_OUT):
        leaf(number).save(folder / f"leaf_{number:02d}.png")
