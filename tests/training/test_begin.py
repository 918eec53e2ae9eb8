"""A run takes its place: what a start that begins anew finds. What is left of older states is in test_build."""

from lorasmith.events import RunStarted
from lorasmith.ledger import read_events
from tests.runs.workshop import Workshop


def test_the_ledger_begins_with_what_was_found_while_loading(workshop: Workshop) -> None:
    outcome = workshop.new(1)
    kept = [type(event) for event in read_events(workshop.run.ledger)]
    assert kept.index(RunStarted) > 0, "the device and the warnings of loading stand before it"
    assert [type(event) for event in outcome.events if type(event) in kept][: kept.index(RunStarted)]
    assert not workshop.run.staging.exists()
