"""Micro-batches are a function of their number."""

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from lorasmith.data.types import LATENTS, Inputs, Use
from lorasmith.engine.state import Origin
from lorasmith.session.loaded import LoadedRun
from tests.end_to_end.workshop import Workshop, load, stage


@pytest.fixture
def loaded(workshop: Workshop) -> LoadedRun:
    workshop.run.root.mkdir()
    values = {("training", "batch_size"): 2, ("training", "accumulation_steps"): 2}
    stage(workshop.start_new(4, values))
    return load(workshop.run, stop_at=4)


def test_micro_batches_are_numbered_through(loaded: LoadedRun) -> None:
    """6 batches a pass, two of them a step: no cursor, any of them at any time."""
    batches = loaded.batches
    assert [batches.position(step, micro) for step in (1, 2, 3) for micro in (0, 1)] == list(range(6))
    in_order = [batches.at(step, micro) for step in range(1, 7) for micro in (0, 1)]
    assert [epoch for epoch, _ in in_order] == [1] * 6 + [2] * 6
    again = [batches.at(step, micro) for step in (5, 2, 1) for micro in (1, 0)]
    assert [batch.example_ids for _, batch in again] == [in_order[place][1].example_ids for place in (9, 8, 3, 2, 1, 0)]
    assert batches.at(4, 0)[1].latents.equal(in_order[6][1].latents)


def test_every_pass_holds_every_picture_as_often_as_it_repeats(loaded: LoadedRun) -> None:
    for epoch in range(3):
        ids = [
            one
            for place in range(6)
            for one in loaded.batches.at(1 + (6 * epoch + place) // 2, place % 2)[1].example_ids
        ]
        assert {one: ids.count(one) for one in ids} == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2}


def test_the_examples_of_a_step_are_counted_beforehand(loaded: LoadedRun) -> None:
    """Six batches an epoch, one of them with a single example; a pass ends within a step, so do its counts."""
    batches = loaded.batches
    found = [sum(len(batches.at(step, micro)[1]) for micro in range(2)) for step in range(1, 13)]
    assert [batches.examples_in(step) for step in range(1, 13)] == found
    assert set(found) == {3, 4}


def test_epochs_of_steps(loaded: LoadedRun) -> None:
    assert [loaded.batches.epoch_of(step) for step in range(8)] == [1, 1, 1, 1, 2, 2, 2, 3]


def test_a_new_origin_begins_its_own_epoch(loaded: LoadedRun) -> None:
    first = loaded.batches.at(1, 0)[1].example_ids
    loaded.state.origin = Origin(step=10, epoch=4)
    assert loaded.batches.epoch_of(10) == 4
    assert loaded.batches.position(11, 0) == 0
    epoch, batch = loaded.batches.at(11, 0)
    assert epoch == 4
    pass_of_four = [loaded.batches.at(11 + place // 2, place % 2)[1].example_ids for place in range(6)]
    assert batch.example_ids == pass_of_four[0]
    assert first is not None


def test_inputs_that_vary_are_asked_for_each_use(loaded: LoadedRun) -> None:
    asked: list[Use] = []

    def marked(use: Use) -> Inputs:
        asked.append(use)
        like = loaded.batches.cached[use.example_id].latents
        return {LATENTS: torch.full_like(like, use.step + use.micro / 10 + use.row / 100)}

    batches = dataclasses.replace(loaded.batches, varying=(lambda _: {LATENTS: torch.zeros(1)}, marked))
    epoch, batch = batches.at(5, 1)
    assert asked == [Use(example_id, epoch, 5, 1, row) for row, example_id in enumerate(batch.example_ids)]
    assert [round(float(row.flatten()[0]), 2) for row in batch.latents] == [5.1, 5.11][: len(batch)]
    others = {name for name in batch.inputs if name != LATENTS}
    plain = loaded.batches.at(5, 1)[1]
    assert others == set(plain.inputs) - {LATENTS}
    assert all(batch.inputs[name].equal(plain.inputs[name]) for name in others)


def test_the_shapes_of_an_epoch_are_those_of_its_batches(loaded: LoadedRun) -> None:
    """A text is as long as the longest of its batch, whichever row that is."""
    cached = list(loaded.batches.cached)
    longest = loaded.batches.ids_at(2, 0)[1][-1]
    for number, example in enumerate(cached):
        text = torch.zeros(5 if number == longest else 3, 8)
        cached[number] = dataclasses.replace(example, inputs={LATENTS: example.latents, "text": text})

    def collate(rows: Sequence[Inputs]) -> dict[str, torch.Tensor]:
        return {
            LATENTS: torch.stack([row[LATENTS] for row in rows]),
            "text": pad_sequence([row["text"] for row in rows], batch_first=True),
        }

    family: Any = SimpleNamespace(collate=collate)
    batches = dataclasses.replace(loaded.batches, cached=cached, family=family)

    def shapes(step: int, micro: int) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(value.shape) for value in batches.at(step, micro)[1].inputs.values())

    expected = {shapes(step, micro) for step in (1, 2, 3) for micro in (0, 1)}
    found = [shapes(*place) for place in batches.of_each_shape(1)]
    assert {length for _, (_, length, _) in expected} == {3, 5}
    assert set(found) == expected and len(found) == len(expected)
