"""Bad input: the right error, the right exit code, and not one byte changed on disk, also under a finished run.

Through the real supervisor, and the real worker where only that can see what is wrong.
"""

import errno
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lorasmith.config import load_flat_toml, optimizer_table
from lorasmith.demo.miniature import draw_pictures
from lorasmith.errors import ConfigError, DatasetError, ExitCode
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.locks import FolderLock
from lorasmith.runtime.preflight import Start
from tests.end_to_end.refusals import Changed, Desk, Payload, Values, make_bad_things, refused_the_same
from tests.end_to_end.workshop import Workshop, tree

FRESH, USED = "deep/down/fresh", "lora_output"


@pytest.fixture(scope="module")
def desk(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    draw_pictures(folder / "lora_train_set", 3, seed=1, size=(64, 64))
    base = shutil.copytree(base_model, folder / "base")
    with pytest.MonkeyPatch.context() as patch:
        made = Desk(folder, folder / "bad", Workshop(folder, base, patch))
        assert made.workshop.new(2).exit_code == ExitCode.FINISHED
        make_bad_things(made.bad, made.workshop)
        yield made


# -- a new run -------------------------------------------------------------------------------------


BAD_VALUES: dict[str, tuple[dict[tuple[str, str], Any], str]] = {
    "no data folder": ({("dataset", "folder"): "nowhere"}, "dataset_missing"),
    "data is a file": ({("dataset", "folder"): "bad/file"}, "dataset_not_folder"),
    "no pictures": ({("dataset", "folder"): "bad/empty"}, "dataset_empty"),
    "bad pictures": ({("dataset", "folder"): "bad/pictures"}, "dataset_problems"),
    "undecodable caption": ({("dataset", "folder"): "bad/captions"}, "dataset_problems"),
    "too small": ({("dataset", "folder"): "bad/tiny"}, "dataset_problems"),
    "nothing left": (
        {("dataset", "folder"): "bad/tiny", ("dataset", "skip_bad_pictures"): True},
        "dataset_nothing_left",
    ),
    "all held out": ({("dataset", "hold_out"): 9}, "hold_out_too_many"),
    "no base model": ({("model", "base_model"): ""}, "base_model_unnamed"),
    "base model missing": ({("model", "base_model"): "nowhere.safetensors"}, "base_model_not_found"),
    "unknown base model": ({("model", "base_model"): "bad/unknown.safetensors"}, "model_unknown"),
    "truncated base model": ({("model", "base_model"): "bad/truncated.safetensors"}, "model_truncated"),
    "foreign base model": ({("model", "base_model"): "bad/flux.safetensors"}, "model_other_family"),
    "LoRA as base model": ({("model", "base_model"): "bad/lora.safetensors"}, "model_is_lora"),
    "a folder that is none": ({("model", "base_model"): "bad"}, "model_unknown"),
    "pickle with code": ({("model", "base_model"): "bad/payload.ckpt"}, "model_pickle_refused"),
    "text encoder's lr": ({("optimizer", "text_encoder_lr"): 1e-4}, "text_encoder_lr_unused"),
    "rates of text encoders": (
        {("optimizer", "text_encoder_lr"): [1e-4, 1e-5], ("adapter", "train_text_encoder"): True},
        "text_encoder_lr_count",
    ),
    "rates of prodigy": (
        {
            ("optimizer", "name"): "prodigy",
            ("optimizer", "lr"): 1.0,
            ("optimizer", "text_encoder_lr"): 0.5,
            ("adapter", "train_text_encoder"): True,
        },
        "prodigy_rates",
    ),
    "targets": ({("adapter", "targets"): "attention("}, "targets_invalid"),
    "no target": ({("adapter", "targets"): "conv_in"}, "targets_none"),
    "block": ({("adapter", "block_ranks"): {"block_7": 4}}, "block_unknown"),
    "another kind's option": ({("adapter", "lokr_factor"): 8}, "lokr_option_unused"),
    "unknown kind": ({("adapter", "kind"): "glora"}, "config_value"),
    "warm-up": ({("lr_schedule", "warmup_steps"): 9, ("lr_schedule", "horizon_steps"): 9}, "warmup_beyond_horizon"),
    "clip skip": ({("model", "clip_skip"): 12}, "model_clip_skip"),
    "rank": ({("adapter", "rank"): 0}, "config_value"),
    "lr is a word": ({("optimizer", "lr"): "fast"}, "config_value"),
    "lr is not a number": ({("optimizer", "lr"): float("nan")}, "config_value"),
    "precision": ({("model", "precision"): "fp8"}, "config_value"),
    "schedule": ({("lr_schedule", "shape"): "wavy"}, "config_value"),
    "hold out": ({("dataset", "hold_out"): -1}, "config_value"),
    "name": ({("export", "name"): "a/b"}, "config_value"),
    "optimizer": ({("optimizer", "name"): "adamv"}, "optimizer_unknown"),
    "optimizer that is none": ({("optimizer", "name"): "torch.optim.Nothing"}, "optimizer_no_class"),
    "optimizer with a closure": ({("optimizer", "name"): "torch.optim.LBFGS"}, "optimizer_unusable"),
    "scheduler that is none": ({("lr_schedule", "shape"): "torch.optim.lr_scheduler.No"}, "lr_schedule_no_class"),
    "scheduler of the loss": (
        {("lr_schedule", "shape"): "torch.optim.lr_scheduler.ReduceLROnPlateau"},
        "lr_schedule_refused",
    ),
    "rate of a block": ({("optimizer", "block_lrs"): {"text_encoder": 0.5}}, "block_lr_unused"),
    "optimizer's option": ({("optimizer", "options"): {"momentum": 0.9}}, "optimizer_unknown_option"),
    "optimizer's value": ({("optimizer", "options"): {"betas": [2.0, 0.9]}}, "optimizer_option_value"),
    "optimizer's word": ({("optimizer", "options"): {"eps": "small"}}, "optimizer_option_value"),
    "start missing": ({("adapter", "init_from"): "nowhere.safetensors"}, "init_from_missing"),
    "start truncated": ({("adapter", "init_from"): "bad/truncated.safetensors"}, "lora_truncated"),
    "start is a folder": ({("adapter", "init_from"): "bad"}, "lora_irregular"),
    "start foreign": ({("adapter", "init_from"): "bad/foreign.safetensors"}, "init_from_foreign"),
    "start of another rank": (
        {("adapter", "init_from"): "bad/lora.safetensors", ("adapter", "rank"): 4},
        "init_from_rank",
    ),
    "start of another model": ({("adapter", "init_from"): "bad/wide.safetensors"}, "init_from_other_model"),
    "no such device": ({("machine", "device"): "tpu"}, "device_unknown"),
}


@pytest.mark.parametrize(("values", "code"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_new_run(desk: Desk, values: Values, code: str) -> None:
    found = refused_the_same(desk, (FRESH, USED), lambda output: desk.new(output, values))
    assert found[0][:2] == (code, ExitCode.BAD_INPUT)
    assert not (desk.bad / "executed").exists()


def test_the_payload_would_have_been_executed(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "executed"))).close()
    assert (tmp_path / "executed").exists()


def test_a_device_that_is_not_there(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wish = {("machine", "device"): "cuda"}
    assert refused_the_same(desk, (FRESH, USED), lambda output: desk.new(output, wish))[0][0] == "device_missing"
    assert refused_the_same(desk, (USED,), lambda output: desk.go_on(output, wish))[0][0] == "device_missing"


def test_a_library_that_is_not_installed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"lion": replace(optimizer_table.OPTIMIZERS["lion"], path="no_such_library:Lion")}
    monkeypatch.setattr(optimizer_table, "OPTIMIZERS", missing)
    rows = refused_the_same(desk, (FRESH, USED), lambda output: desk.new(output, {("optimizer", "name"): "lion"}))
    assert rows[0][:2] == ("optimizer_not_installed", ExitCode.BAD_INPUT)
    assert rows[0][2]["package"] == "lion-pytorch"


def test_a_library_of_our_own_that_is_missing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers.models")

    monkeypatch.setattr("lorasmith.session.build.load_family", missing)
    rows = refused_the_same(desk, (FRESH, USED), lambda output: desk.new(output, {}))
    assert rows[0] == (
        "dependency_missing",
        ExitCode.BAD_INPUT,
        {"module": "diffusers", "command": "pip install diffusers"},
    )


def test_all_that_is_bad_is_listed(desk: Desk) -> None:
    with pytest.raises(DatasetError) as caught:
        desk.new(FRESH, {("dataset", "folder"): "bad/pictures"})
    rows = {Path(one["path"]).name: one["reason"] for one in caught.value.fields["problems"]}
    assert rows == {
        "picture_000.png": "picture_empty",
        "picture_001.png": "picture_damaged",
        "picture_002.png": "picture_unknown",
    }


@pytest.mark.parametrize(
    ("how", "code"),
    [({"steps": 2, "epochs": 1}, "steps_and_epochs"), ({"steps": None}, "steps_unnamed")],
)
def test_requests(desk: Desk, how: dict[str, Any], code: str) -> None:
    found = refused_the_same(desk, (FRESH, USED), lambda output: desk.new(output, {}, **how))
    assert found[0][:2] == (code, ExitCode.BAD_INPUT)


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("bad/file", "output_not_folder"),
        ("bad/file/below", "output_not_folder"),
        ("lora_train_set", "output_holds_other"),
        ("lora_train_set/10_test", "output_holds_other"),
        (".", "output_holds_other"),
        ("..", "output_holds_other"),
        ("base", "output_holds_other"),
    ],
)
def test_outputs(desk: Desk, output: str, code: str) -> None:
    found = refused_the_same(desk, (output,), lambda output: desk.new(output, {}))
    assert found[0][:2] == (code, ExitCode.BAD_INPUT)


def test_keys_of_a_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "lorasmith.toml"
    file.write_text("rnak = 4\n")
    with pytest.raises(ConfigError) as caught:
        load_flat_toml(file)
    assert (caught.value.code, caught.value.exit_code) == ("config_unknown_key", ExitCode.BAD_INPUT)
    assert caught.value.fields["nearest"] == "rank"


# -- the machine -----------------------------------------------------------------------------------


def starts(desk: Desk) -> list[tuple[str, Callable[[str], Start]]]:
    """New where nothing is, new over a run, and going on with it."""
    return [
        (FRESH, lambda output: desk.new(output, {})),
        (USED, lambda output: desk.new(output, {})),
        (USED, lambda output: desk.go_on(output, {})),
    ]


def test_a_disk_too_full(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(desk.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    for output, start in starts(desk):
        code, exit_code, fields = refused_the_same(desk, (output,), start)[0]
        assert (code, exit_code) == ("disk_too_full", ExitCode.BAD_INPUT)
        assert fields["folder"] == str(desk.folder / output)


def test_a_disk_that_fills_up_while_loading(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No state can be lost yet, so it is the user's to mend: exit 2, not 6."""

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lorasmith.engine.encode.read_cached", full)
    for output, start in starts(desk):
        assert refused_the_same(desk, (output,), start)[0][:2] == ("disk_full", ExitCode.BAD_INPUT)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_cannot_be_written(desk: Desk, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Who runs this may be root, whom permissions do not stop: so the calls themselves refuse."""
    really = os.open

    def refusing(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if str(path).endswith("run.lock"):
            raise OSError(number, os.strerror(number), str(path))
        return really(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refusing)
    for output, start in starts(desk):
        code, exit_code, fields = refused_the_same(desk, (output,), start)[0]
        assert (code, exit_code) == ("output_not_writable", ExitCode.BAD_INPUT)
        assert fields == {"folder": str(desk.folder / output), "reason": os.strerror(number)}


def test_a_parent_that_cannot_be_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run folder itself can be, so the lock is taken; the staging folder beside it cannot."""
    really = Path.mkdir

    def refusing(self: Path, *rest: Any, **more: Any) -> None:
        if self.suffix == ".starting":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        really(self, *rest, **more)

    monkeypatch.setattr(Path, "mkdir", refusing)
    for output, start in starts(desk):
        assert refused_the_same(desk, (output,), start)[0][:2] == ("output_not_writable", ExitCode.BAD_INPUT)


def test_a_folder_that_another_run_holds(desk: Desk) -> None:
    with FolderLock(RunFolder(desk.folder / USED).lock):
        for output, start in starts(desk)[1:]:
            assert refused_the_same(desk, (output,), start)[0][:2] == ("folder_locked", ExitCode.LOCKED)


# -- going on --------------------------------------------------------------------------------------


CANNOT_CHANGE: dict[str, dict[tuple[str, str], Any]] = {
    "rank": {("adapter", "rank"): 4},
    "alpha": {("adapter", "alpha"): 3.0},
    "seed": {("", "seed"): 7},
    "optimizer": {("optimizer", "name"): "adafactor"},
    "optimizer-option": {("optimizer", "options"): {"eps": 1e-6}},
    "train-text-encoder": {("adapter", "train_text_encoder"): True},
}


@pytest.mark.parametrize(("option", "values"), CANNOT_CHANGE.items(), ids=CANNOT_CHANGE)
def test_what_cannot_change(desk: Desk, option: str, values: Values) -> None:
    code, exit_code, fields = refused_the_same(desk, (USED,), lambda output: desk.go_on(output, values))[0]
    expected = "identity_added" if option in ("optimizer-option", "train-text-encoder") else "identity_changed"
    assert (code, exit_code, fields["option"]) == (expected, ExitCode.BAD_INPUT, option)


BAD_CONTINUES: dict[str, tuple[dict[tuple[str, str], Any], str]] = {
    "no data folder": ({("dataset", "folder"): "nowhere"}, "dataset_missing"),
    "bad pictures": ({("dataset", "folder"): "bad/pictures"}, "dataset_problems"),
    "base model missing": ({("model", "base_model"): "nowhere.safetensors"}, "base_model_not_found"),
    "LoRA as base model": ({("model", "base_model"): "bad/lora.safetensors"}, "model_is_lora"),
    "pickle with code": ({("model", "base_model"): "bad/payload.ckpt"}, "model_pickle_refused"),
    "text encoder's lr": ({("optimizer", "text_encoder_lr"): 1e-4}, "text_encoder_lr_unused"),
    "lr": ({("optimizer", "lr"): -1.0}, "config_value"),
}


@pytest.mark.parametrize(("values", "code"), BAD_CONTINUES.values(), ids=BAD_CONTINUES)
def test_continue(desk: Desk, values: Values, code: str) -> None:
    found = refused_the_same(desk, (USED,), lambda output: desk.go_on(output, values))
    assert found[0][:2] == (code, ExitCode.BAD_INPUT)
    assert not (desk.bad / "executed").exists()


@pytest.mark.parametrize(
    ("output", "how", "code", "exit_code"),
    [
        (FRESH, {}, "no_run", ExitCode.NO_STATE),
        ("bad", {}, "no_run_but_lora", ExitCode.NO_STATE),
        (USED, {"steps": None}, "nothing_owed", ExitCode.BAD_INPUT),
        (USED, {"from_state": "nowhere"}, "state_unknown", ExitCode.NO_STATE),
        (USED, {"from_state": "best"}, "no_best_state", ExitCode.BAD_INPUT),
    ],
)
def test_nothing_to_go_on_from(desk: Desk, output: str, how: dict[str, Any], code: str, exit_code: ExitCode) -> None:
    found = refused_the_same(desk, (output,), lambda output: desk.go_on(output, {}, **how))
    assert found[0][:2] == (code, exit_code)


def test_another_base_model_under_the_same_path(desk: Desk) -> None:
    with Changed(desk.workshop.base_model / "unet" / "diffusion_pytorch_model.safetensors") as file:
        tensors = safetensors.torch.load_file(file)
        tensors["conv_out.bias"] = tensors["conv_out.bias"] + 1
        safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
        found = refused_the_same(desk, (USED,), lambda output: desk.go_on(output, {}))
    assert found[0][:2] == ("base_model_changed", ExitCode.BAD_INPUT)


def test_the_base_model_is_gone(desk: Desk) -> None:
    base = desk.workshop.base_model
    base.rename(base.with_name("elsewhere"))
    try:
        found = refused_the_same(desk, (USED,), lambda output: desk.go_on(output, {}))
    finally:
        base.with_name("elsewhere").rename(base)
    assert found[0][:2] == ("base_model_not_found", ExitCode.BAD_INPUT)


def test_every_state_is_damaged(desk: Desk) -> None:
    states = [path for path in (desk.folder / USED).glob("state_*")]
    with Changed(states[0] / "optimizer.pt") as one, Changed(states[1] / "adapter.safetensors") as other:
        one.write_bytes(one.read_bytes()[:-1])
        other.unlink()
        found = refused_the_same(desk, (USED,), lambda output: desk.go_on(output, {}))
    assert found[0][:2] == ("no_usable_state", ExitCode.NO_STATE)
    assert {one["path"] for one in found[0][2]["problems"]} == {path.name for path in states}


def test_one_state_is_damaged_and_more_is_wrong(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set aside only once everything has loaded."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with Changed(desk.workshop.state_folder() / "optimizer.pt") as file:
        file.write_bytes(file.read_bytes()[:-1])
        found = refused_the_same(desk, (USED,), lambda output: desk.go_on(output, {("machine", "device"): "cuda"}))
    assert found[0][:2] == ("device_missing", ExitCode.BAD_INPUT)


def test_a_state_of_another_run(desk: Desk) -> None:
    """Its manifest tells, even where it was copied in."""
    other = Workshop(desk.folder, desk.workshop.base_model, desk.workshop.monkeypatch, output="other")
    other.new(3, {("", "seed"): 5})
    copied = shutil.copytree(other.state_folder(), desk.folder / USED / "state_of_other")
    try:
        found = refused_the_same(desk, (USED,), lambda output: desk.go_on(output, {}))
    finally:
        shutil.rmtree(copied)
    assert found[0][:2] == ("state_of_other_run", ExitCode.BAD_INPUT)


def test_a_named_state_that_is_damaged(desk: Desk) -> None:
    state = desk.workshop.state_folder()
    with Changed(state / "adapter.safetensors") as file:
        file.write_bytes(file.read_bytes()[:-1])
        found = refused_the_same(desk, (USED,), lambda output: desk.go_on(output, {}, from_state=state.name))
    assert found[0][:2] == ("state_damaged", ExitCode.NO_STATE)


def test_the_comparison_can_fail(desk: Desk) -> None:
    before = tree(desk.folder)
    (desk.folder / "deep").mkdir()
    assert tree(desk.folder) != before
    (desk.folder / "deep").rmdir()
    assert tree(desk.folder) == before
