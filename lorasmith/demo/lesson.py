"""The lesson of `lorasmith demo`: pictures of the one thing the base model has never seen, some of what it knows so
that it keeps that, and settings that suit.

Knows no torch and no run.
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from pathlib import Path

from lorasmith.demo.scenes import CONCEPT, SHAPES, Scene, draw, known_scenes
from lorasmith.runs.durable import write_atomically
from lorasmith.seeding import fold

PICTURES = 28
REPEATS = 10
KNOWN = "known"  # the folder of what the base knows
KNOWN_OF_EACH_SHAPE = 8
KNOWN_REPEATS = 1
GROUNDS = ("red", "yellow", "blue", "pink", "brown", "gray", "black")  # of the concept's pictures
NEW_GROUNDS = ("orange", "green", "purple", "white")  # of no picture at all: what was learned must work there too
HELD_OUT = 4
SETTINGS = {
    "base_model": "demo",
    "hold_out": HELD_OUT,
    "batch_size": 24,
    "lr": 2.5e-3,
    "lr_schedule": "cosine",  # more old captions were kept with it: docs/LOG.md
    "save_every": 100,
}


def lesson_scenes() -> list[Scene]:
    """One for each picture of the concept: every background in turn, half of them large. None are small: eyes and horns
    would be smaller than what the base's VAE can draw."""
    sizes = ("", "large")
    return [
        Scene(sizes[sum(divmod(number, len(GROUNDS))) % 2], "", CONCEPT, GROUNDS[number % len(GROUNDS)])
        for number in range(PICTURES)
    ]


def reminder_scenes() -> list[Scene]:
    """Some that the base was trained on, of every shape equally many, on the concept's own backgrounds. Without them
    whatever is asked for soon has the concept's sizes."""
    chance = random.Random(fold(1, "known"))
    known = [scene for scene in known_scenes() if scene.ground in GROUNDS]
    by_shape = [[scene for scene in known if scene.shape == shape] for shape in SHAPES]
    return [scene for scenes in by_shape for scene in chance.sample(scenes, KNOWN_OF_EACH_SHAPE)]


def draw_lesson(data_folder: Path) -> Path:
    """Draws the pictures with a caption beside each into `data_folder/<repeats>_<name>`; the concept's folder is
    returned. What is there already is left as it is.

    Every second caption of what the base knows is empty: samplers compare a caption with the empty one, and a LoRA that
    never meets that one shifts it, which makes colours glaring and edges uneven.
    """
    known = reminder_scenes()
    captions = [scene.caption if number % 2 else "" for number, scene in enumerate(known)]
    _draw_all(known, captions, data_folder / f"{KNOWN_REPEATS}_{KNOWN}")
    scenes = lesson_scenes()
    return _draw_all(scenes, [scene.caption for scene in scenes], data_folder / f"{REPEATS}_{CONCEPT}")


def _draw_all(scenes: Sequence[Scene], captions: Sequence[str], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name.partition("_")[2]
    for number, (scene, caption) in enumerate(zip(scenes, captions, strict=True), start=1):
        picture, beside = folder / f"{name}_{number:03d}.png", folder / f"{name}_{number:03d}.txt"
        if not picture.exists():
            drawn = io.BytesIO()
            draw(scene, random.Random(fold(1, "lesson", name, number))).save(drawn, "PNG")
            write_atomically(picture, drawn.getvalue())
        if not beside.exists():
            write_atomically(beside, f"{caption}\n".encode())
    return folder
