"""Which captions are encoded beforehand."""

from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import RunConfig
from lorasmith.data.caption_variants import CaptionRules, settled_caption
from lorasmith.data.types import Example, Offset, Size
from lorasmith.session import captions
from lorasmith.session.captions import CaptionPlan, caption_plan

SIDE = Size(64, 64)


def plan_of(config: RunConfig, *texts: tuple[str, int], stop_at: int = 10) -> CaptionPlan:
    examples = []
    for text, subset in texts:
        own = config.subsets()[subset].config
        caption = settled_caption(text, CaptionRules(own.captions, own.dataset.trigger_word))
        examples.append(
            Example(Path("a.png"), caption, 1, SIDE, SIDE, SIDE, Offset(0, 0), "s", "h", subset=subset, text=text)
        )
    return caption_plan(config, examples, stop_at=stop_at)


def configured(**captions: Any) -> RunConfig:
    return RunConfig().with_values({("captions", name): value for name, value in captions.items()})


def test_by_default_no_caption_varies() -> None:
    plan = plan_of(configured(prefix="p"), ("a, b", 0), ("", 0))
    assert (plan.varies, plan.is_live, plan.beforehand) == (False, False, ())
    assert plan.inputs(1, {}, lambda: pytest.fail("loads encoders")) == ()


def test_a_few_captions_are_encoded_beforehand() -> None:
    plan = plan_of(configured(dropout=0.1, has_wildcards=True), ("{a|b}", 0), ("c", 0))
    assert (plan.varies, plan.is_live, plan.beforehand) == (True, False, ("", "a", "b", "c"))
    (inputs,) = plan.inputs(1, {caption: {} for caption in plan.beforehand}, lambda: pytest.fail("loads encoders"))
    assert inputs is not None


def test_many_captions_are_encoded_live() -> None:
    plan = plan_of(configured(shuffle=True), ("a, b", 0), ("c", 0))
    assert (plan.varies, plan.is_live, plan.beforehand) == (True, True, ("c",))


def test_too_many_captions_of_all_examples_are_encoded_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for those that differ by being left out only."""
    config = configured(dropout=0.1, has_wildcards=True)
    texts = [("{a|b|c}", 0), ("{d|e|f}", 0), ("g", 0)]
    monkeypatch.setattr(captions, "MAX_BEFOREHAND", 2)
    assert not plan_of(config, *texts).is_live  # eight captions, two for each and two more
    monkeypatch.setattr(captions, "MAX_BEFOREHAND", 1)
    plan = plan_of(config, *texts)
    assert (plan.is_live, plan.beforehand) == (True, ("", "g"))


def test_tags_that_come_in_over_a_share_of_the_target() -> None:
    plan = plan_of(configured(warmup_steps=0.5), ("a, b", 0), stop_at=40)
    assert plan.is_live and plan.rules[0].warmup_steps == 20


def test_each_subset_has_its_own_settings() -> None:
    tables = ({"data": "x", "shuffle_caption": True}, {"data": "y", "trigger_word": "sks"})
    plan = plan_of(RunConfig().with_values({("dataset", "subsets"): tables}), ("a, b", 0), ("a, b", 1))
    assert (plan.varies, plan.is_live, plan.beforehand) == (True, True, ("sks, a, b",))
    assert [rules.settings.shuffle for rules in plan.rules] == [True, False]
