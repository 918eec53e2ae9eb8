"""The training as metadata state it."""

import json

import pytest

from lorasmith.lora_tools.facts import MAX_TAGS, MAX_TEXT, training_facts


def test_facts_of_sd_scripts() -> None:
    tags = {"10_a": {"cat": 5, "dog": 1}, "b": {"cat": 2}}
    metadata = {
        "ss_steps": "1200",
        "ss_unet_lr": "None",
        "ss_learning_rate": "0.0001",
        "ss_sd_model_name": "a\n b.safetensors",
        "ss_training_finished_at": "1763800500.5",
        "ss_tag_frequency": json.dumps(tags),
    }
    assert training_facts(metadata) == {
        "steps": "1200",
        "lr": "0.0001",
        "base_model": "a b.safetensors",
        "date": "2025-11-22T08:35:00+00:00",
        "tags": {"cat": 7, "dog": 1},
    }


def test_nothing_stated_is_nothing() -> None:
    assert training_facts({}) == {}


@pytest.mark.parametrize("tags", ["", "[", "[1]", '{"a": 1}', '{"a": {"b": "c", "d": true}}', "[" * 100_000])
def test_tags_that_are_none(tags: str) -> None:
    assert "tags" not in training_facts({"ss_tag_frequency": tags})


def test_long_texts_and_lists_are_cut() -> None:
    many = {"x": {f"{number}" * 300: number + 1 for number in range(50)}}
    facts = training_facts({"ss_optimizer": "x" * 1000, "ss_tag_frequency": json.dumps(many)})
    assert len(facts["optimizer"]) == MAX_TEXT and len(facts["tags"]) == MAX_TAGS
    assert max(map(len, facts["tags"])) == MAX_TEXT
