"""The LoRA file of a run: what it says of itself, and starting from one that is there."""

import json
from collections.abc import Callable
from datetime import datetime

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lorasmith.errors import ExitCode, ModelError, ResumeError
from lorasmith.runs.events import RunStarted, WorkerRestarted
from lorasmith.runs.layout import RunFolder
from lorasmith.session import begin as begin_module
from tests.end_to_end.workshop import Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
EXACT: Values = {("export", "save_precision"): "fp32", ("optimizer", "lr"): 1e-2}


def metadata(workshop: Workshop, name: str = "last") -> dict[str, str]:
    with safe_open(workshop.run.export(name), framework="pt") as file:
        found: dict[str, str] = file.metadata()
    return found


def test_what_it_says(workshop: Workshop) -> None:
    values = {
        ("training", "batch_size"): 2,
        ("optimizer", "options"): {"betas": [0.8, 0.9]},
        ("export", "name"): "mine",
    }
    (started,) = workshop.new(3, values).of(RunStarted)
    found = metadata(workshop, "mine")
    assert (found["ss_steps"], found["ss_max_train_steps"], found["ss_output_name"]) == ("3", "3", "mine")
    assert (found["ss_network_dim"], found["ss_network_alpha"], found["ss_seed"]) == ("16", "16.0", "42")
    assert found["ss_num_batches_per_epoch"] == "6"
    folders = json.loads(found["ss_dataset_dirs"])
    assert {name: (one["n_repeats"], one["img_count"]) for name, one in folders.items()} == {
        "1_test": (1, 3),
        "2_test": (2, 4),
    }
    tags = json.loads(found["ss_tag_frequency"])
    assert {name: sum(counts.values()) for name, counts in tags.items()} == {"1_test": 3, "2_test": 4}
    buckets = json.loads(found["ss_bucket_info"])["buckets"]
    counted: dict[tuple[int, ...], int] = {}
    for one in started.examples:
        counted[tuple(one["bucket"])] = counted.get(tuple(one["bucket"]), 0) + one["repeats"]
    assert {tuple(one["resolution"]): one["count"] for one in buckets.values()} == counted
    assert sorted(counted.values()) == [3, 8]


def test_step_exports_say_their_own_step(workshop: Workshop) -> None:
    workshop.new(3, {("cadence", "save_every"): 2})
    assert metadata(workshop, "last-step00000002")["ss_steps"] == "2"
    assert metadata(workshop)["ss_steps"] == "3"


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)]
)
def test_precision(workshop: Workshop, precision: str, kind: torch.dtype) -> None:
    workshop.new(1, {("export", "save_precision"): precision})
    stored = safetensors.torch.load_file(workshop.run.export("last"))
    assert {one.dtype for name, one in stored.items() if not name.endswith(".alpha")} == {kind}
    assert {one.dtype for name, one in stored.items() if name.endswith(".alpha")} == {torch.float32}


@pytest.mark.parametrize("alpha", [16.0, 4.0])
def test_starting_from_a_lora(make_workshop: MakeWorkshop, alpha: float) -> None:
    """At step 0 the change is that of the file, whatever the alpha of the new run."""
    first, second = make_workshop("first"), make_workshop("second")
    first.new(2, EXACT)
    file = first.run.export("last")
    values = {**EXACT, ("adapter", "init_from"): str(file), ("adapter", "alpha"): alpha}
    assert second.new(2, {**values, ("optimizer", "lr"): 0.0}).exit_code == ExitCode.FINISHED
    was, now = first.adapter(), second.adapter()
    assert was.keys() == now.keys()
    assert max(float(one.abs().max()) for name, one in was.items() if ".lora_up." in name) > 0
    for name in was:
        expected = was[name] * (16.0 / alpha) if ".lora_up." in name else was[name]
        assert torch.equal(now[name], expected)


def test_starting_from_a_lora_of_a_part(workshop: Workshop) -> None:
    """Layers that the file does not have keep their untouched start: a change of nothing."""
    workshop.new(2, EXACT)
    stored = safetensors.torch.load_file(workshop.run.export("last"))
    some = sorted({name.split(".")[0] for name in stored})[:5]
    part = workshop.folder / "part.safetensors"
    safetensors.torch.save_file({name: one for name, one in stored.items() if name.split(".")[0] in some}, part)
    workshop.output = "second"
    values = {**EXACT, ("adapter", "init_from"): "part.safetensors", ("optimizer", "lr"): 0.0}
    assert workshop.new(1, values).exit_code == ExitCode.FINISHED
    ups = [bool(one.any()) for name, one in workshop.adapter().items() if ".lora_up." in name]
    assert ups.count(True) == 5
    assert len(ups) > 5


def test_starting_from_the_lora_of_the_run_that_makes_room(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that dies when the old run lies in the backup, and nothing is saved yet: the next one finds the file."""
    unlucky, straight = make_workshop("unlucky"), make_workshop("straight")
    promote, times = begin_module.promote, []

    def dies_once(run: RunFolder, *, now: datetime) -> None:
        promote(run, now=now)
        times.append(now)
        if len(times) == 1:
            raise ZeroDivisionError

    for workshop in (unlucky, straight):
        workshop.new(2, EXACT)
        if workshop is unlucky:
            monkeypatch.setattr(begin_module, "promote", dies_once)
        outcome = workshop.new(2, {**EXACT, ("adapter", "init_from"): str(workshop.run.export("last"))})
        monkeypatch.setattr(begin_module, "promote", promote)
        assert outcome.exit_code == ExitCode.FINISHED
        assert len(outcome.of(WorkerRestarted)) == (workshop is unlucky)
    assert len(times) == 2
    assert unlucky.digest() == straight.digest()


def test_continuing_does_not_start_from_it_again(workshop: Workshop) -> None:
    """The file may even be gone."""
    workshop.new(1, EXACT)
    start = workshop.run.export("last").rename(workshop.folder / "start.safetensors")
    workshop.output = "second"
    workshop.new(1, {**EXACT, ("adapter", "init_from"): "start.safetensors"})
    start.unlink()
    assert workshop.go_on(1).exit_code == ExitCode.FINISHED


def test_starting_from_a_lora_takes_its_rank_and_alpha(make_workshop: MakeWorkshop) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    first.new(1, {**EXACT, ("adapter", "rank"): 3, ("adapter", "alpha"): 1.5})
    start = second.start_new(1, {("adapter", "init_from"): str(first.run.export("last"))})
    assert (start.config.adapter.rank, start.config.adapter.alpha) == (3, 1.5)
    assert [code for code, _ in start.warnings] == ["init_from_shape_taken"]
    assert second.watch(start).exit_code == ExitCode.FINISHED
    asked = second.start_new(1, {("adapter", "init_from"): str(first.run.export("last")), ("adapter", "rank"): 8})
    assert (asked.config.adapter.rank, asked.config.adapter.alpha) == (8, 8.0)


def test_starting_from_a_lora_that_trains_the_text_encoder_too(make_workshop: MakeWorkshop) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    trains: Values = {("adapter", "train_text_encoder"): True}
    first.new(1, {**EXACT, **trains, ("adapter", "rank"): 2})
    init_from: Values = {("adapter", "init_from"): str(first.run.export("last"))}
    with pytest.raises(ModelError) as caught:
        second.start_new(1, init_from)
    assert caught.value.code == "init_from_text_encoder"
    assert second.new(1, {**init_from, **trains}).exit_code == ExitCode.FINISHED


@pytest.mark.parametrize(
    ("content", "code"), [(b"<html>", "model_is_web_page"), (b"\x80\x02}q\x00.", "init_from_pickle")]
)
def test_starting_from_what_is_no_lora_file(workshop: Workshop, content: bytes, code: str) -> None:
    (workshop.folder / "a.pt").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        workshop.start_new(1, {("adapter", "init_from"): "a.pt"})
    assert caught.value.code == code


def test_the_prediction_that_was_asked_for_is_trained_and_named(make_workshop: MakeWorkshop) -> None:
    """And a run that goes on keeps it, whatever its files say."""
    asked, plain = make_workshop("asked"), make_workshop("plain")
    asked.new(1, {("model", "prediction"): "v_prediction"})
    plain.new(1)
    assert (metadata(asked)["ss_base_model_version"], metadata(plain)["ss_base_model_version"]) == ("sd_v1_v", "sd_v1")
    assert metadata(asked)["modelspec.prediction_type"] == "v"
    assert asked.losses()[1] != plain.losses()[1]
    assert asked.go_on(1).exit_code == ExitCode.FINISHED
    with pytest.raises(ResumeError) as caught:
        asked.go_on(1, {("model", "prediction"): "epsilon"})
    assert caught.value.fields["option"] == "prediction"
