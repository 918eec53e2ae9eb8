"""Runs that begin with other LoRAs: merged into the base model, or as the pattern of the layers; and a run of the text
encoder alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lorasmith.errors import ConfigError, ExitCode, ModelError
from lorasmith.lora_tools.combine import Source
from lorasmith.lora_tools.into_model import merge_into
from lorasmith.runs.events import RunStarted, RunStopped
from tests.end_to_end.workshop import Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
FAST: Values = {("optimizer", "lr"): 1e-2, ("export", "save_precision"): "fp32", ("adapter", "rank"): 4}
WITH_TEXT: Values = {**FAST, ("adapter", "train_text_encoder"): True}


@pytest.fixture
def lora(make_workshop: MakeWorkshop) -> Path:
    """A LoRA of both parts of the model."""
    first = make_workshop("first")
    assert first.new(3, WITH_TEXT).exit_code == ExitCode.FINISHED
    return first.run.export("last")


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_a_merged_lora_is_as_good_as_a_merged_model(make_workshop: MakeWorkshop, lora: Path) -> None:
    """The same bytes as on a base model that was merged beforehand, stopped in between."""
    merged = merge_into(make_workshop("x").base_model, [Source(lora, 0.5)], lora.with_name("merged")).path
    by_hand, by_option = make_workshop("by hand"), make_workshop("by option")
    assert by_hand.new(5, {**FAST, ("model", "base_model"): str(merged)}).exit_code == ExitCode.FINISHED
    values = {**FAST, ("model", "base_weights"): (str(lora),), ("model", "base_weights_multiplier"): (0.5,)}
    assert by_option.new(5, values, stop_after=2).exit_code == ExitCode.STOPPED
    assert by_option.go_on(None).exit_code == ExitCode.FINISHED
    assert by_option.digest() == by_hand.digest()
    plain = make_workshop("plain")
    plain.new(5, FAST)
    assert plain.digest() != by_hand.digest()
    with pytest.raises(ConfigError) as caught:
        by_option.go_on(1, {("model", "base_weights_multiplier"): (1.0,)})
    assert caught.value.code == "base_weights_fixed"


@pytest.mark.ci
def test_the_files_that_were_merged_are_asked_for_by_name_when_a_run_continues(workshop: Workshop, lora: Path) -> None:
    """The same option again, relative as it was typed, is no change; another file, or none, is said before a step."""
    file = workshop.folder / "merged.safetensors"
    file.write_bytes(lora.read_bytes())
    typed: Values = {("model", "base_weights"): (file.name,)}
    assert workshop.new(2, {**FAST, **typed}).exit_code == ExitCode.FINISHED
    assert workshop.go_on(1, typed).exit_code == ExitCode.FINISHED
    file.unlink()
    with pytest.raises(ModelError) as caught:
        workshop.go_on(1)
    assert caught.value.code == "base_weights_missing"
    file.write_bytes(workshop.run.export("last").read_bytes())
    outcome = workshop.go_on(1)
    (stopped,) = outcome.of(RunStopped)
    assert (outcome.exit_code, stopped.code) == (ExitCode.BAD_INPUT, "merged_model_changed")


def test_a_merged_lora_that_cannot_be_used_is_refused(workshop: Workshop) -> None:
    with pytest.raises(ModelError) as caught:
        workshop.start_new(1, {("model", "base_weights"): ("missing.safetensors",)})
    assert caught.value.code == "base_weights_missing"
    with pytest.raises(ConfigError) as refused:
        workshop.start_new(1, {("model", "base_weights_multiplier"): (0.5,)})
    assert refused.value.code == "base_weights_multipliers"


@pytest.mark.ci
def test_the_sizes_of_a_lora_are_those_of_every_layer(make_workshop: MakeWorkshop) -> None:
    """Layers without a rank of their own in the file are not trained; the file may be gone when the run continues."""
    first, second = make_workshop("first"), make_workshop("second")
    choice = {("adapter", "block_ranks"): {"mid_block": 2, "down_blocks.0": 0}, ("adapter", "alpha"): 3.0}
    first.new(2, {**FAST, **choice})
    file = first.run.export("last")
    values = {("optimizer", "lr"): 1e-2, ("adapter", "init_from"): str(file), ("adapter", "dim_from_weights"): True}
    second.new(4, {**values, ("export", "save_precision"): "fp32"}, stop_after=2)
    stored = safetensors.torch.load_file(file)
    file.unlink()
    assert second.go_on(None).exit_code == ExitCode.FINISHED
    exported = safetensors.torch.load_file(second.run.export("last"))
    assert {name: tensor.shape for name, tensor in exported.items()} == {n: t.shape for n, t in stored.items()}
    assert all(torch.equal(exported[name], stored[name]) for name in stored if name.endswith(".alpha"))
    straight = make_workshop("straight")
    first.go_on(0 + 1)  # another file under the name, which nothing reads any more
    safetensors.torch.save_file(stored, file)
    straight.new(4, {**values, ("export", "save_precision"): "fp32"})
    assert straight.digest() == second.digest()


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({("adapter", "dim_from_weights"): True}, "dim_from_weights_alone"),
        ({("adapter", "dim_from_weights"): True, ("adapter", "rank"): 8}, "dim_from_weights_with"),
    ],
)
def test_sizes_need_a_lora_and_nothing_else(workshop: Workshop, values: Values, code: str) -> None:
    if code == "dim_from_weights_with":
        workshop.new(1, FAST)
        workshop.output = "second"
        values = {**values, ("adapter", "init_from"): str(workshop.folder / "lora_output/last.safetensors")}
    with pytest.raises(ConfigError) as caught:
        workshop.start_new(1, values)
    assert caught.value.code == code


@pytest.mark.ci
def test_the_text_encoder_alone(make_workshop: MakeWorkshop) -> None:
    """12 steps are 5 and 7, in bytes; the file has no layer of the denoiser."""
    values = {**FAST, ("adapter", "text_encoder_only"): True, ("optimizer", "text_encoder_lr"): (5e-3,)}
    cut, straight = make_workshop("cut"), make_workshop("straight")
    cut.new(12, values, stop_after=5)
    assert cut.go_on(None).exit_code == straight.new(12, values).exit_code == ExitCode.FINISHED
    assert cut.digest() == straight.digest()
    keys = set(safetensors.torch.load_file(cut.run.export("last")))
    assert keys and all(key.startswith("lora_te_") for key in keys)
    metadata = metadata_of(cut.run.export("last"))
    assert (metadata["ss_unet_lr"], metadata["ss_text_encoder_lr"]) == ("None", "0.005")
    (started, _) = [event for event in cut.events() if isinstance(event, RunStarted)]
    assert started.settings["adapter"]["text_encoder_only"] is True


def test_a_share_of_the_pictures_is_held_out(workshop: Workshop) -> None:
    outcome = workshop.new(1, {("dataset", "hold_out"): 0.3})
    (started,) = outcome.of(RunStarted)
    assert (len(started.held_out), len(started.examples)) == (2, 5)  # of seven
