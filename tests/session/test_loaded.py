"""What a start says about itself, of a run that was loaded."""

import pytest

from lorasmith.session.loaded import LoadedRun, run_started
from tests.end_to_end.workshop import Workshop, load, stage


@pytest.fixture
def loaded(workshop: Workshop) -> LoadedRun:
    workshop.run.root.mkdir()
    stage(workshop.start_new(6, {("dataset", "hold_out"): 2}))
    return load(workshop.run, stop_at=6)


def test_the_pictures_by_number_and_those_apart(loaded: LoadedRun) -> None:
    event = run_started(loaded)
    assert [one["path"] for one in event.examples] == [str(one.image) for one in loaded.trained]
    assert event.held_out == [str(one.image) for one in loaded.held_out]
    assert len(event.examples) == 5
    assert not set(event.held_out) & {one["path"] for one in event.examples}
    assert (event.stop_at, event.resumed_from, event.changed) == (6, None, {})


def test_a_state_says_what_it_is_of(loaded: LoadedRun) -> None:
    facts = loaded.state_facts(loaded.state)
    assert facts.identity == loaded.config.identity()
    assert facts.described["target"] == 6
    assert facts.lr_schedule["horizon_steps"] == 6
