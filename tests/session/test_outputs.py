"""When a state is written; the tests of the loop and of whole runs hold the rest."""

from lorasmith.runs.events import CheckpointSaved
from tests.end_to_end.workshop import Workshop


def test_a_step_that_is_saved_already_is_not_saved_again(workshop: Workshop) -> None:
    """The last step is due by its number, and by being the last."""
    outcome = workshop.new(2, {("cadence", "save_every"): 1})
    assert [event.step for event in outcome.of(CheckpointSaved)] == [0, 1, 2]
