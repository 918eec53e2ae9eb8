from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig
from lorasmith.data.types import Example, Offset, Size
from lorasmith.session.picture_facts import picture_facts


def example_of(name: str, side: int, repeats: int = 1, *, subset: int = 0, is_reg: bool = False) -> Example:
    size = Size(side, side)
    original = Size(2 * side, side)
    cut = (original, size, size, Offset(0, 0))
    facts = {"subset": subset, "is_regularisation": is_reg, "text": "a, B"}
    return Example(Path(name), "a", repeats, *cut, "", "", **facts)


def test_a_run_without_tables_has_no_datasets() -> None:
    config = RunConfig().with_values({("dataset", "resolution"): (64, 96), ("augmentation", "flip"): True})
    facts = picture_facts(config, [example_of("2_a/1.png", 64, 2)], held_out=3, base_resolution=512)
    assert (facts.datasets, facts.resolution, facts.held_out) == ((), (64, 96), 3)
    assert (facts.flips, facts.tints, facts.is_live) == (True, False, False)
    (folder,) = facts.whole.folders
    assert (folder.name, folder.repeats, folder.pictures, folder.tags) == ("2_a", 2, 1, {"a": 1, "b": 1})
    assert facts.whole.mean_aspect_error == 1.0


def test_each_group_is_a_dataset() -> None:
    tables: list[dict[str, Any]] = [
        {"data": "x/cats", "repeats": 3, "resolution": 64, "batch_size": 2, "color_aug": True},
        {"data": "x/dogs", "is_reg": True, "resolution": 64, "batch_size": 2},
        {"data": "x/cats", "resolution": 128, "resize_interpolation": "area"},
    ]
    config = RunConfig().with_values({("dataset", "subsets"): tables})
    examples = [
        example_of("x/cats/1.png", 64, 3),
        example_of("x/dogs/2_dog/1.png", 64, 5, subset=1, is_reg=True),
        example_of("x/dogs/2_dog/2.png", 64, 4, subset=1, is_reg=True),
        example_of("x/cats/1.png", 128, subset=2),
    ]
    facts = picture_facts(config, examples, held_out=0, base_resolution=512)
    assert facts.is_live
    first, second = facts.datasets
    assert [(one.resolution, one.batch_size, one.resampling) for one in facts.datasets] == [
        ((64, 64), 2, None),
        ((128, 128), 1, "area"),
    ]
    assert [(one.name, one.repeats, one.pictures, one.is_regularisation) for one in first.folders] == [
        ("cats", 3, 1, False),
        ("2_dog", 2, 2, True),  # as the name says, however often they were dealt out
    ]
    assert [(one["image_dir"], one["img_count"], one["is_reg"], one["color_aug"]) for one in first.subsets] == [
        ("cats", 1, False, True),
        ("dogs", 2, True, False),
    ]
    assert [one["num_repeats"] for one in (*first.subsets, *second.subsets)] == [3, 1, 1]
    assert [(bucket.width, bucket.count) for bucket in first.buckets] == [(64, 12)]
