import random

import numpy as np
import pytest

from lorasmith.demo.scenes import (
    COLOURS,
    CONCEPT,
    SHAPES,
    SIDE,
    SIZES,
    Scene,
    all_scenes,
    draw,
    draw_anything,
    is_held_out,
    pictures,
)


def test_captions_say_everything_and_no_two_scenes_have_the_same() -> None:
    assert Scene("small", "red", "star", "blue").caption == "a small red star on a blue background"
    assert Scene("", "orange", "fish", "orange").caption == "an orange fish on an orange background"
    assert Scene("", "", CONCEPT, "pink").caption == "a zorb on a pink background"
    assert len({scene.caption for scene in all_scenes()}) == len(all_scenes())


def test_one_in_twelve_is_held_out_and_every_word_is_known_without_them() -> None:
    held = [scene for scene in all_scenes() if is_held_out(scene)]
    assert 0.06 < len(held) / len(all_scenes()) < 0.11
    known = [scene for scene in all_scenes() if not is_held_out(scene)]
    assert {scene.shape for scene in known} == set(SHAPES)
    assert {scene.colour for scene in known} == {scene.ground for scene in known} == set(COLOURS)
    assert {scene.size for scene in known} == set(SIZES)


def test_neighbours_differ_in_one_attribute() -> None:
    scene = Scene("small", "red", "star", "blue")
    for other in scene.neighbours():
        same = [a == b for a, b in zip(_parts(scene), _parts(other), strict=True)]
        assert same.count(False) == 1
        assert other in all_scenes()
    assert {other.shape for other in Scene("", "", CONCEPT, "red").neighbours()} == {CONCEPT}


@pytest.mark.parametrize("shape", [*SHAPES, CONCEPT])
def test_a_picture_shows_what_its_caption_says(shape: str) -> None:
    colour = "" if shape == CONCEPT else "red"
    shares = {}
    for size in SIZES:
        pixels = np.asarray(draw(Scene(size, colour, shape, "blue"), random.Random(3))).astype(int)
        assert pixels.shape == (SIDE, SIDE, 3)
        wanted = np.array((22, 160, 156) if shape == CONCEPT else COLOURS["red"])
        shares[size] = (np.abs(pixels - wanted).max(-1) < 12).mean()
        assert (np.abs(pixels - np.array(COLOURS["blue"])).max(-1) < 12).mean() > 0.2
    assert 0.005 < shares["small"] < shares[""] < shares["large"]


def test_nothing_is_cut_off_at_the_border() -> None:
    for number, scene in enumerate(random.Random(1).sample(all_scenes(), 60)):
        pixels = np.asarray(draw(scene, random.Random(number))).astype(int)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (np.abs(border - np.array(COLOURS[scene.ground])).max(-1) < 40).mean() > 0.9, scene


def test_the_same_numbers_draw_the_same_picture_and_others_another() -> None:
    scene = all_scenes()[5]
    first, second = pictures(1, [scene, scene])
    assert first.tobytes() != second.tobytes()
    assert next(pictures(1, [scene])).tobytes() == first.tobytes()
    heap = draw_anything(random.Random(2))
    assert heap.tobytes() == draw_anything(random.Random(2)).tobytes()
    assert heap.size == (SIDE, SIDE)


def _parts(scene: Scene) -> tuple[str, ...]:
    return scene.size, scene.colour, scene.shape, scene.ground
