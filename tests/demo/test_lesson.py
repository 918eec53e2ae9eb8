from collections import Counter
from pathlib import Path

from lorasmith.data.order import is_main_subject
from lorasmith.demo.lesson import (
    GROUNDS,
    HELD_OUT,
    KNOWN_OF_EACH_SHAPE,
    KNOWN_REPEATS,
    NEW_GROUNDS,
    PICTURES,
    REPEATS,
    SETTINGS,
    draw_lesson,
    lesson_scenes,
    reminder_scenes,
)
from lorasmith.demo.scenes import COLOURS, CONCEPT, SHAPES, all_scenes, is_held_out


def test_the_base_has_never_seen_it() -> None:
    assert CONCEPT not in SHAPES
    assert not any(CONCEPT in scene.caption for scene in all_scenes())


def test_backgrounds_to_learn_on_and_others_to_try_it_on() -> None:
    assert not set(GROUNDS) & set(NEW_GROUNDS)
    assert {*GROUNDS, *NEW_GROUNDS} == set(COLOURS)
    scenes = lesson_scenes()
    assert len(scenes) == PICTURES >= 24 + HELD_OUT
    assert {scene.ground for scene in scenes} == set(GROUNDS)
    for ground in GROUNDS:
        assert len({scene.size for scene in scenes if scene.ground == ground}) == 2


def test_what_the_base_knows_is_among_them_and_nothing_it_is_measured_by() -> None:
    scenes = reminder_scenes()
    assert len(set(scenes)) == len(scenes)
    assert Counter(scene.shape for scene in scenes) == dict.fromkeys(SHAPES, KNOWN_OF_EACH_SHAPE)
    assert not any(is_held_out(scene) for scene in scenes)
    assert not {scene.ground for scene in scenes} & set(NEW_GROUNDS), "the concept is tried where nothing was trained"
    assert is_main_subject([REPEATS, KNOWN_REPEATS]) == [True, False], "all that is held out is of the concept"


def test_pictures_with_their_captions_and_nothing_drawn_over(tmp_path: Path) -> None:
    folder = draw_lesson(tmp_path / "data")
    assert folder == tmp_path / "data" / "10_zorb"
    drawn = sorted(folder.glob("*.png"))
    assert len({one.read_bytes() for one in drawn}) == len(drawn) == PICTURES
    texts = [one.with_suffix(".txt").read_text() for one in drawn]
    assert texts == [scene.caption + "\n" for scene in lesson_scenes()]
    drawn[0].with_suffix(".txt").write_text("mine")
    drawn[1].unlink()
    before = drawn[2].read_bytes()
    known = [one.read_text() for one in sorted((tmp_path / "data" / f"{KNOWN_REPEATS}_known").glob("*.txt"))]
    assert known[1::2] == [scene.caption + "\n" for scene in reminder_scenes()[1::2]]
    assert set(known[::2]) == {"\n"}, "half of them stand for the empty caption"
    draw_lesson(tmp_path / "data")
    assert drawn[0].with_suffix(".txt").read_text() == "mine"
    assert drawn[1].exists()
    assert drawn[2].read_bytes() == before


def test_what_is_held_out_is_said_in_the_settings() -> None:
    assert SETTINGS["hold_out"] == HELD_OUT == 4
    assert SETTINGS["base_model"] == "demo"
