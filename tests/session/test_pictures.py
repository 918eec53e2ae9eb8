"""Which pictures are encoded beforehand."""

from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig
from lorasmith.data.augmentation import mirrored
from lorasmith.data.types import CachedExample, Example, Offset, Size
from lorasmith.session.pictures import picture_plan

SIDE = Size(64, 64)


def example_of(name: str, subset: int = 0) -> Example:
    return Example(Path(name), "", 1, SIDE, SIDE, SIDE, Offset(0, 0), name, name, subset=subset)


def configured(**changes: Any) -> RunConfig:
    return RunConfig().with_values({("augmentation", name): value for name, value in changes.items()})


def test_by_default_no_picture_varies() -> None:
    plan = picture_plan(configured(), [example_of("a")])
    assert (plan.is_live, plan.beforehand) == (False, ())
    assert plan.inputs(1, {}, lambda _: {}, lambda: pytest.fail("loads the VAE")) == ()


def test_mirrored_pictures_need_no_vae_later() -> None:
    plan = picture_plan(configured(flip=True), [example_of("a")])
    assert (plan.is_live, plan.beforehand) == (False, (mirrored(example_of("a")),))
    cached = {plan.beforehand[0]: CachedExample({"latents": None})}
    assert len(plan.inputs(1, cached, lambda _: {}, lambda: pytest.fail("loads the VAE"))) == 1


def test_each_subset_has_its_own_settings() -> None:
    tables = ({"data": "x", "flip_aug": True}, {"data": "y", "color_aug": True})
    config = RunConfig().with_values({("dataset", "subsets"): tables})
    plan = picture_plan(config, [example_of("a"), example_of("b", 1)])
    assert (plan.is_live, plan.beforehand) == (True, (mirrored(example_of("a")),))
    assert [(own.flip, own.color) for own in plan.settings] == [(True, False), (False, True)]
