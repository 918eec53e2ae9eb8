"""What is said of device and precision. Through real runs in this process."""

from lorasmith.events import DeviceChosen
from tests.runs.workshop import Outcome, Workshop


def test_what_the_run_had_so_far_was_not_asked_for_now(workshop: Workshop) -> None:
    precision, where = ("model", "precision"), ("machine", "device")

    def reasons(outcome: Outcome) -> tuple[str, str]:
        (chosen,) = outcome.of(DeviceChosen)
        return chosen.reason, chosen.precision_reason

    assert reasons(workshop.new(1, {where: "cpu"}))[0] == "asked"
    assert reasons(workshop.go_on(1)) == ("kept", "kept")
    assert reasons(workshop.go_on(1, {precision: "bf16"})) == ("kept", "asked")
