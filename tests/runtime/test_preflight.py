"""What a start is worked out to be. (What is refused: tests/end_to_end/test_refuses_without_a_trace.py.)"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import Request, load_run_toml
from lorasmith.demo.miniature import draw_pictures
from lorasmith.errors import ConfigError, ExitCode, NoStateError
from lorasmith.runs.events import RunStarted
from lorasmith.runs.layout import run_at
from lorasmith.runs.ledger import read_events
from lorasmith.runs.states import MANIFEST, manifest_bytes
from lorasmith.runtime.preflight import Start, continued_run, differing_settings, new_run
from tests.end_to_end.workshop import QUIET, Workshop
from tests.families.krea2.miniature import make_model as make_flow_model


def new(done: Workshop, values: dict[tuple[str, str], Any] | None = None, **request: Any) -> Start:
    settings = {**QUIET, ("model", "base_model"): str(done.base_model), **(values or {})}
    return new_run(settings, Request(**request), state_prefix="prefix", here=done.folder)


def go_on(done: Workshop, values: dict[tuple[str, str], Any] | None = None, **how: Any) -> Start:
    from_state = how.pop("from_state", "")
    return continued_run(done.run, values or {}, Request(**how), from_state=from_state, here=done.folder)


def test_a_new_run_is_resolved(done: Workshop) -> None:
    start = new(done, steps=7)
    assert (start.stop_at, start.first_step, start.is_new, start.resume) == (7, 0, True, None)
    config = start.config
    assert config.dataset.folder == str(done.folder / "lora_train_set")
    assert config.dataset.resolution == 64  # the miniature's own
    assert (config.model.family, config.adapter.alpha, config.export.state_prefix) == ("sd15", 16.0, "prefix")
    assert start.run.root == done.folder / "lora_output"
    assert config.given == ("base-model", "evaluate-every", "save-every", "save-minutes")
    continued = go_on(done, {("optimizer", "lr"): 2e-4}, steps=1)
    assert continued.config.given == ("base-model", "evaluate-every", "lr", "save-every", "save-minutes")


def test_paths_typed_here_hold_elsewhere(done: Workshop) -> None:
    (done.folder / "model").symlink_to(done.base_model)
    start_from = shutil.copy(done.run.export("last"), done.folder / "start.safetensors")
    try:
        start = new(done, {("model", "base_model"): "model", ("adapter", "init_from"): "start.safetensors"}, steps=1)
    finally:
        (done.folder / "model").unlink()
    # The link itself: where it leads next month is meant to be used then.
    assert Path(start.config.model.base_model) == done.folder / "model"
    assert start.config.adapter.init_from == str(start_from)
    assert go_on(done, {("dataset", "folder"): "lora_train_set"}, steps=1).config.dataset.folder == str(
        done.folder / "lora_train_set"
    )


def test_a_run_in_a_folder_called_like_its_base_model_is_trained(
    make_workshop: Callable[[str], Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output folder exists by the time the worker loads the model `demo`; the name was resolved before."""
    workshop = make_workshop("named")
    workshop.output = "demo"
    monkeypatch.setattr("lorasmith.families.locate.DEMO_MODEL", workshop.base_model)
    monkeypatch.chdir(workshop.folder)
    assert workshop.new(1, {("model", "base_model"): "demo"}).exit_code == ExitCode.FINISHED
    assert workshop.go_on(1).exit_code == ExitCode.FINISHED


@pytest.mark.parametrize(
    ("epochs", "batch_size", "accumulation", "steps"),
    [(1, 1, 1, 10), (2, 1, 1, 20), (1, 3, 1, 4), (3, 3, 1, 12), (1, 1, 3, 4), (3, 1, 4, 8)],
)
def test_epochs_become_exact_steps(done: Workshop, epochs: int, batch_size: int, accumulation: int, steps: int) -> None:
    """Five pictures twice each are 10 a pass; the last step may begin the next pass."""
    values = {("training", "batch_size"): batch_size, ("training", "accumulation_steps"): accumulation}
    assert new(done, values, epochs=epochs).stop_at == steps
    assert go_on(done, values, epochs=epochs).stop_at == 4 + steps


def test_held_out_pictures_are_fixed_at_new(done: Workshop) -> None:
    held = new(done, {("dataset", "hold_out"): 2}, steps=1).config.dataset.held_out
    assert len(held) == 2
    assert held == tuple(sorted(held))


def test_going_on_counts_from_the_highest_step_saved(done: Workshop) -> None:
    start = go_on(done, steps=3)
    assert (start.stop_at, start.first_step, start.is_new) == (7, 4, False)
    assert start.resume == done.state_folder()


def test_states_without_their_settings_are_nothing_to_go_on_from(done: Workshop) -> None:
    aside = done.run.config.rename(done.run.root / "aside")
    try:
        with pytest.raises(NoStateError, match="run_settings_lost") as caught:
            go_on(done, steps=1)
    finally:
        aside.rename(done.run.config)
    assert caught.value.exit_code == ExitCode.NO_STATE


def test_a_plan_is_made_anew_where_the_run_has_moved_on(done: Workshop) -> None:
    """Another start ended between planning and locking: what it did is neither lost nor done again."""
    owed, more = go_on(done, from_state="2"), go_on(done, steps=3)
    assert (owed.replanned(), more.replanned()) == (owed, more)
    state = done.run.root / "state_later"
    shutil.copytree(done.state_folder(), state)
    try:
        (state / MANIFEST).unlink()
        (state / MANIFEST).write_bytes(manifest_bytes(state, step=6, identity=owed.config.identity()))
        anew = more.replanned()
        assert (anew.first_step, anew.stop_at, anew.resume) == (6, 9, state)
        with pytest.raises(ConfigError, match="nothing_owed"):
            go_on(done)
    finally:
        shutil.rmtree(state)
    assert more.replanned() == more


def test_a_plan_is_made_anew_where_the_settings_have_changed(done: Workshop) -> None:
    start, whole = go_on(done, steps=3), done.run.config.read_bytes()
    try:
        done.run.config.write_bytes(whole.replace(b"rank = 16", b"rank = 17"))
        assert start.replanned().config.adapter.rank == 17
    finally:
        done.run.config.write_bytes(whole)


def test_a_linked_folder_is_the_same_for_both_commands(done: Workshop, tmp_path: Path) -> None:
    """Backup and staging lie beside the link, whichever command makes them."""
    there = tmp_path / "big_disk"
    there.mkdir()
    link = done.folder / "linked"
    link.symlink_to(there)
    try:
        start = new(done, steps=1, output="linked")
    finally:
        link.unlink()
    assert start.run.root == link
    assert run_at(done.folder, "x/../linked").root == link
    assert start.run.staging.parent == start.run.backup.parent == done.folder


@pytest.mark.parametrize("name", ["lora_train_set", "."])
def test_a_link_to_what_is_somebody_else_s_is_refused(done: Workshop, name: str) -> None:
    link = done.folder / "linked"
    link.symlink_to(done.folder / name)
    try:
        with pytest.raises(ConfigError, match="output_holds_other"):
            new(done, steps=1, output="linked")
    finally:
        link.unlink()


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ({}, []),
        ({("lr_schedule", "shape"): "cosine", ("lr_schedule", "horizon_steps"): 5}, ["lr_horizon_passed"]),
        ({("lr_schedule", "shape"): "constant", ("lr_schedule", "horizon_steps"): 5}, []),
        ({("lr_schedule", "shape"): "cosine"}, []),
        ({("optimizer", "name"): "prodigy"}, ["prodigy_lr"]),
        ({("adapter", "kind"): "dora"}, ["dora_readers"]),
        ({("adapter", "kind"): "lokr", ("adapter", "rank"): 8}, []),
        ({("adapter", "kind"): "lokr", ("adapter", "alpha"): 1.0}, ["lokr_alpha"]),
        ({("optimizer", "name"): "prodigy", ("optimizer", "lr"): 1.0}, []),
        ({("loss", "huber_c"): 0.2, ("noise", "has_random_offset"): True}, ["option_unused", "option_unused"]),
        ({("loss", "min_snr_gamma"): 5.0}, []),
        ({("loss", "min_snr_gamma"): 5.0, ("loss", "debiased_estimation"): True}, ["weightings_multiply"]),
        ({("loss", "v_pred_like"): 0.5}, ["v_pred_like_loss"]),
    ],
)
def test_warnings(done: Workshop, values: dict[tuple[str, str], Any], codes: list[str]) -> None:
    assert [code for code, _ in new(done, values, steps=9).warnings if code != "cut_off"] == codes


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({("noise", "adaptive_scale"): 0.1}, "adaptive_noise_scale_alone"),
        ({("training", "scale_weight_norms"): 1.0, ("adapter", "kind"): "dora"}, "scale_weight_norms_kind"),
        ({("loss", "masked_loss"): True}, "masked_loss_without_masks"),
        ({("noise", "density"): "uniform"}, "option_of_flow"),
        ({("noise", "shift"): 3.0}, "option_of_flow"),
        ({("loss", "flow_weighting"): "cosmap"}, "option_of_flow"),
        ({("noise", "min_timestep"): 9, ("noise", "max_timestep"): 8}, "timesteps_crossed"),
        ({("loss", "scale_v_pred"): True}, "loss_needs_prediction"),
        ({("loss", "v_pred_like"): 1.0, ("model", "prediction"): "v_prediction"}, "loss_needs_prediction"),
        ({("loss", "v_pred_like"): 1.0, ("model", "zero_terminal_snr"): "on"}, "loss_infinite"),
        ({("loss", "debiased_estimation"): True, ("model", "zero_terminal_snr"): "on"}, "loss_infinite"),
    ],
)
def test_losses_and_noise_that_cannot_be(done: Workshop, values: dict[tuple[str, str], Any], code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        new(done, values, steps=9)


@pytest.mark.parametrize("values", [{}, {("lr_schedule", "shape"): "linear"}, {("optimizer", "lr"): 0.1}])
def test_a_learning_rate_that_is_constant_or_asked_for_is_no_news(
    done: Workshop, values: dict[tuple[str, str], Any]
) -> None:
    assert "lr_jumps" not in [code for code, _ in go_on(done, values, steps=10).warnings]


def test_a_learning_rate_that_jumps_is_named(make_workshop: Callable[[str], Workshop]) -> None:
    """Linear over 4 steps it is a quarter in the 4th and 0 behind it; over 8 it is a half in the 5th."""
    workshop = make_workshop("linear")
    workshop.new(4, {("lr_schedule", "shape"): "linear", ("optimizer", "lr"): 1e-3})
    start = continued_run(workshop.run, {}, Request(steps=4), from_state="", here=workshop.folder)
    (jump,) = [fields for code, fields in start.warnings if code == "lr_jumps"]
    assert jump == {"before": "0", "now": "0.0005", "horizon_before": 4, "horizon": 8}
    kept = {("lr_schedule", "horizon_steps"): 4}
    start = continued_run(workshop.run, kept, Request(steps=4), from_state="", here=workshop.folder)
    assert "lr_jumps" not in [code for code, _ in start.warnings]


def test_settings_that_a_run_does_not_go_on_with(done: Workshop) -> None:
    config = load_run_toml(done.run.config)
    base_model = os.path.relpath(done.base_model, done.folder)
    same = {("model", "base_model"): base_model, ("dataset", "folder"): "lora_train_set", ("adapter", "rank"): 16}
    auto = {("model", "precision"): "auto", ("machine", "device"): "auto"}
    other = {("optimizer", "lr"): 0.5, ("dataset", "trigger_word"): "zorb", ("", "seed"): 7}
    assert differing_settings(config, {**same, **auto}, done.folder) == []
    assert differing_settings(config, {**same, **other}, done.folder) == ["lr", "trigger_word", "seed"]


def test_pictures_that_are_left_out_are_named(done: Workshop) -> None:
    bad = done.folder / "lora_train_set" / "2_test" / "bad.png"
    bad.write_bytes(b"")
    try:
        warnings = new(done, {("dataset", "skip_bad_pictures"): True}, steps=1).warnings
    finally:
        bad.unlink()
    skipped = [(fields["path"], fields["reason"]) for code, fields in warnings if code == "picture_skipped"]
    assert skipped == [(str(bad), "picture_empty")]


@pytest.mark.parametrize("at", [("adapter", "block_ranks"), ("optimizer", "block_lrs")])
def test_a_block_beyond_those_of_the_base_model_is_refused(tmp_path: Path, at: tuple[str, str]) -> None:
    make_flow_model(tmp_path / "model")
    draw_pictures(tmp_path / "lora_train_set", 1, seed=1, size=(64, 64))
    values = {("model", "base_model"): "model", at: {"transformer_blocks.9": 2}}
    with pytest.raises(ConfigError, match="block_unknown") as caught:
        new_run(values, Request(steps=1), state_prefix="state", here=tmp_path)
    assert "transformer_blocks.0-1" in caught.value.fields["blocks"]


def test_nothing_was_written(done: Workshop) -> None:
    assert len([event for event in read_events(done.run.ledger) if isinstance(event, RunStarted)]) == 1
    assert not done.run.staging.exists()
