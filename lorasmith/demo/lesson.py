"""What `lorasmith demo` trains on: pictures of the one thing the base model has never seen, and settings that suit.

Knows no torch and no run.
"""

from __future__ import annotations

import random
from pathlib import Path

from lorasmith.demo.scenes import CONCEPT, SIZES, Scene, draw
from lorasmith.seeding import fold

PICTURES = 28
REPEATS = 10
GROUNDS = ("red", "yellow", "blue", "pink", "brown", "gray", "black")  # of the pictures
NEW_GROUNDS = ("orange", "green", "purple", "white")  # of none of them: what was learned must work there too
HELD_OUT = 4
SETTINGS = {
    "base_model": "demo",
    "hold_out": HELD_OUT,
    "batch_size": 8,
    "lr": 3e-4,
    "save_every": 100,
}


def lesson_scenes() -> list[Scene]:
    """One for each picture: every background in turn, and every size. Small ones lose their eyes in the base's VAE, but
    without them everything that is asked for small comes out larger."""
    sizes = list(SIZES)
    return [
        Scene(sizes[sum(divmod(number, len(GROUNDS))) % len(sizes)], "", CONCEPT, GROUNDS[number % len(GROUNDS)])
        for number in range(PICTURES)
    ]


def draw_lesson(data_folder: Path) -> Path:
    """Draws the pictures with a caption beside each into `data_folder/<repeats>_<name>`, which is returned. What is
    there already is left as it is."""
    folder = data_folder / f"{REPEATS}_{CONCEPT}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(lesson_scenes(), start=1):
        picture, caption = folder / f"{CONCEPT}_{number:02d}.png", folder / f"{CONCEPT}_{number:02d}.txt"
        if not picture.exists():
            draw(scene, random.Random(fold(1, "lesson", number))).save(picture)
        if not caption.exists():
            caption.write_text(scene.caption + "\n", encoding="utf-8")
    return folder
