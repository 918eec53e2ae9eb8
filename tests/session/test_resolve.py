"""What is said of device and precision. Through real runs in this process."""

import shutil
from pathlib import Path

import pytest

from lorasmith.demo.miniature import to_single_file
from lorasmith.runs.events import DeviceChosen, RunStarted, Warned
from lorasmith.session import resolve
from tests.end_to_end.workshop import Outcome, Workshop
from tests.families.unet_miniature import make_model


def test_what_the_run_had_so_far_was_not_asked_for_now(workshop: Workshop) -> None:
    precision, where = ("model", "precision"), ("machine", "device")

    def reasons(outcome: Outcome) -> tuple[str, str]:
        (chosen,) = outcome.of(DeviceChosen)
        return chosen.reason, chosen.precision_reason

    assert reasons(workshop.new(1, {where: "cpu"}))[0] == "asked"
    assert reasons(workshop.go_on(1)) == ("kept", "kept")
    assert reasons(workshop.go_on(1, {precision: "bf16"})) == ("kept", "asked")


def test_products_that_do_not_repeat_are_said_and_the_run_goes_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "self_check", lambda device, precision: ("matrix product", "norm"))
    outcome = workshop.new(1)
    (warned,) = [event for event in outcome.of(Warned) if event.code == "bits_not_repeatable"]
    assert warned.fields == {"products": ["matrix product", "norm"]}
    assert workshop.optimizer_steps() == {1}
    (started,) = outcome.of(RunStarted)
    assert started.fingerprint["self_check"] == "matrix product, norm"
    events = list(map(type, outcome.events))
    assert events.index(Warned) < events.index(RunStarted), "among the first lines"


def test_a_machine_that_repeats_itself_has_no_warning(workshop: Workshop) -> None:
    outcome = workshop.new(1)
    assert not [event for event in outcome.of(Warned) if event.code == "bits_not_repeatable"]
    assert [event.precision for event in outcome.of(DeviceChosen)] == ["fp32"]
    assert [event.fingerprint["self_check"] for event in outcome.of(RunStarted)] == ["passed"]


def test_a_model_that_was_distilled_is_named(workshop: Workshop, tmp_path: Path) -> None:
    model = shutil.copytree(workshop.base_model, tmp_path / "dreamXL_Turbo")
    outcome = workshop.new(1, {("model", "base_model"): str(model)})
    (warned,) = [event for event in outcome.of(Warned) if event.code == "base_model_distilled"]
    assert warned.fields == {"path": str(model), "method": "Turbo"}


def test_a_schedule_that_ends_in_pure_noise_does_not_go_with_epsilon(workshop: Workshop) -> None:
    outcome = workshop.new(1, {("model", "zero_terminal_snr"): "on"})
    (warned,) = [event for event in outcome.of(Warned) if event.code == "zero_snr_epsilon"]
    assert warned.fields == {"path": str(workshop.base_model)}


@pytest.mark.ci
def test_a_prediction_that_the_weights_tell_is_named(workshop: Workshop, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", family="sd2", size="narrow")
    single = to_single_file(folder, tmp_path / "model.safetensors", with_configs=False)
    outcome = workshop.new(1, {("model", "base_model"): str(single), ("dataset", "resolution"): 64})
    (warned,) = [event for event in outcome.of(Warned) if event.code.startswith("prediction_")]
    assert (warned.code, warned.fields["prediction"]) == ("prediction_by_weights", "epsilon")
