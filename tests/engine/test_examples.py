"""Encode once, hand out by number, and say what is going on meanwhile."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from lorasmith.data import cache
from lorasmith.data.files import read_whole
from lorasmith.engine.examples import StartupContext
from lorasmith.engine.state import Origin
from lorasmith.errors import StopRequested
from lorasmith.runs.events import CacheProgress
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.ledger import Ledger, read_events
from lorasmith.runs.process_files import HeartbeatWriter, StopFlag, read_heartbeat, request_stop
from lorasmith.session.loaded import Loaded
from tests.end_to_end.workshop import Workshop, load, stage


@pytest.fixture
def startup(tmp_path: Path) -> StartupContext:
    run = RunFolder(tmp_path / "run")
    run.staging.mkdir()
    heart = HeartbeatWriter(run.staging / run.heartbeat.name)
    return StartupContext(Ledger(run.early_ledger), heart, StopFlag(run, 3, supervisor_pid=None), 3)


def staged(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_progress_is_an_event_and_a_sign_of_life(startup: StartupContext, tmp_path: Path) -> None:
    run = staged(tmp_path)
    startup.cached(0, 2)
    startup.cached(1, 2)
    startup.close()
    startup.close()
    events = read_events(run.early_ledger)
    assert [(event.done, event.total) for event in events if isinstance(event, CacheProgress)] == [(0, 2), (1, 2)]
    assert {event.attempt for event in events} == {3}
    beat = read_heartbeat(run.staging / run.heartbeat.name)
    assert beat is not None
    assert (beat.phase, beat.step, beat.beat) == ("caching", 0, 2)


def test_a_stop_takes_effect_at_the_next_picture(startup: StartupContext, tmp_path: Path) -> None:
    startup.cached(0, 2)
    request_stop(staged(tmp_path), 3)
    with pytest.raises(StopRequested):
        startup.cached(1, 2)
    startup.close()


@pytest.fixture
def loaded(workshop: Workshop) -> Loaded:
    workshop.run.root.mkdir()
    values = {("training", "batch_size"): 2, ("training", "accumulation_steps"): 2}
    stage(workshop.start_new(4, values))
    return load(workshop.run, stop_at=4)


def test_micro_batches_are_numbered_through(loaded: Loaded) -> None:
    """6 batches a pass, two of them a step: no cursor, any of them at any time."""
    batches = loaded.batches
    assert [batches.position(step, micro) for step in (1, 2, 3) for micro in (0, 1)] == list(range(6))
    in_order = [batches.at(step, micro) for step in range(1, 7) for micro in (0, 1)]
    assert [epoch for epoch, _ in in_order] == [1] * 6 + [2] * 6
    again = [batches.at(step, micro) for step in (5, 2, 1) for micro in (1, 0)]
    assert [batch.example_ids for _, batch in again] == [in_order[place][1].example_ids for place in (9, 8, 3, 2, 1, 0)]
    assert batches.at(4, 0)[1].latents.equal(in_order[6][1].latents)


def test_every_pass_holds_every_picture_as_often_as_it_repeats(loaded: Loaded) -> None:
    for epoch in range(3):
        ids = [
            one
            for place in range(6)
            for one in loaded.batches.at(1 + (6 * epoch + place) // 2, place % 2)[1].example_ids
        ]
        assert {one: ids.count(one) for one in ids} == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2}


def test_the_examples_of_a_step_are_counted_beforehand(loaded: Loaded) -> None:
    """Six batches an epoch, one of them with a single example; a pass ends within a step, so do its counts."""
    batches = loaded.batches
    found = [sum(len(batches.at(step, micro)[1]) for micro in range(2)) for step in range(1, 13)]
    assert [batches.examples_in(step) for step in range(1, 13)] == found
    assert set(found) == {3, 4}


def test_epochs_of_steps(loaded: Loaded) -> None:
    assert [loaded.batches.epoch_of(step) for step in range(8)] == [1, 1, 1, 1, 2, 2, 2, 3]


def test_a_new_origin_begins_its_own_epoch(loaded: Loaded) -> None:
    first = loaded.batches.at(1, 0)[1].example_ids
    loaded.state.origin = Origin(step=10, epoch=4)
    assert loaded.batches.epoch_of(10) == 4
    assert loaded.batches.position(11, 0) == 0
    epoch, batch = loaded.batches.at(11, 0)
    assert epoch == 4
    pass_of_four = [loaded.batches.at(11 + place // 2, place % 2)[1].example_ids for place in range(6)]
    assert batch.example_ids == pass_of_four[0]
    assert first is not None


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_run_reads_each_cached_file_once_and_holds_text_as_the_denoiser_sees_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    values = {("evaluation", "every"): 2, ("dataset", "hold_out"): 1, ("model", "precision"): precision}
    stage(workshop.start_new(4, values))
    load(workshop.run, stop_at=4)  # fills the cache
    reads: Counter[Path] = Counter()

    def counted(path: Path, *, most: int) -> bytes:
        reads[path] += 1
        return read_whole(path, most=most)

    monkeypatch.setattr(cache, "read_whole", counted)
    found = load(workshop.run, stop_at=4)
    assert set(reads.values()) == {1}
    measured_on = found.evaluator.measured_on
    assert measured_on is not None and measured_on.empty_caption.conditioning is not None
    held = [one.conditioning for one in found.batches.cached]
    held += [measured_on.empty_caption.conditioning, *(one.text.conditioning for one in measured_on.specs)]
    assert {tensor.dtype for one in held if one is not None for tensor in one.values()} == {dtype}
    assert {one.latents.dtype for one in found.batches.cached} == {torch.float32}


def test_the_encoders_are_gone(loaded: Loaded) -> None:
    """What trains holds the denoiser alone."""
    assert set(loaded.context.models) == {"denoiser"}
    assert all(one.tokens is None for one in [loaded.batches.at(1, 0)[1]])
