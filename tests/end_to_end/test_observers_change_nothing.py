"""P3: how often something is saved, exported, measured, logged or shown does not change one bit of the weights."""

from collections.abc import Callable, Sequence

import pytest

from lorasmith.config.fields import declared
from lorasmith.config.run import sections
from lorasmith.errors import ExitCode
from lorasmith.evaluation import evaluator
from lorasmith.runs.events import Evaluated
from tests.end_to_end.workshop import Values, Workshop
from tests.evaluation.few_steps import sample_in
from tests.families.tiny import tiny_clip

MakeWorkshop = Callable[[str], Workshop]
STEPS = 7
CADENCES: dict[str, Values] = {
    "every step": {("cadence", "save_every"): 1},
    "every third, all kept": {("cadence", "save_every"): 3, ("cadence", "keep_states"): 50},
    "by the clock, always due": {("cadence", "save_minutes"): 1e-9},
    "one kept": {("cadence", "save_every"): 2, ("cadence", "keep_states"): 1},
    "by epochs, some kept": {
        ("cadence", "save_every_n_epochs"): 1,
        ("cadence", "save_last_n_epochs"): 1,
        ("cadence", "save_last_n_steps"): 2,
    },
    "a ratio of epochs": {("cadence", "save_n_epoch_ratio"): 2},
    "names of sd-scripts, described": {
        ("export", "naming"): "sd-scripts",
        ("export", "no_metadata"): True,
        ("export", "training_comment"): "mine",
        ("export", "model_spec"): {"author": "me"},
    },
    "other names, other precision": {
        ("export", "name"): "mine",
        ("export", "save_precision"): "fp32",
        ("export", "format"): "diffusers",
        ("export", "state_prefix"): "狀態目錄",
        ("watch", "stall_timeout"): 20.0,
        ("watch", "max_seconds_per_step"): 5.0,
        ("watch", "no_restart"): True,
        ("", "given"): ("lr", "rank"),
    },
}
BY_DEFAULT = ["every step"]
EVALUATIONS: Values = {
    ("evaluation", "every"): 1,
    ("evaluation", "every_n_epochs"): 1,
    ("evaluation", "at_first"): True,
    ("evaluation", "examples"): 1,
    ("evaluation", "strength"): 0.8,
    ("evaluation", "sample_prompts"): ("a red ring",),
}
# Settings with the effect `cadence` that no run here changes -> why.
NOT_CHANGED = {("machine", "project"): "where run.toml keeps paths relative to; tests/config/test_project_paths.py"}


def test_every_setting_that_promises_to_change_nothing_is_changed_here() -> None:
    changed = {at for values in (*CADENCES.values(), EVALUATIONS, NOT_CHANGED) for at in values}
    promised = {
        (section, field)
        for section, model in sections()
        for field, _, facts in declared(model)
        if facts.effect == "cadence"
    }
    assert promised - changed == {("evaluation", "clip_model")}  # a path, added in the test


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(names, id=", ".join(names), marks=[] if names == BY_DEFAULT else [pytest.mark.ci])
        for names in (BY_DEFAULT, [name for name in CADENCES if name not in BY_DEFAULT])
    ],
)
def test_other_cadences_same_bytes(make_workshop: MakeWorkshop, names: Sequence[str]) -> None:
    values = {("adapter", "dropout"): 0.1, ("training", "batch_size"): 2}
    quiet = make_workshop("quiet")
    assert quiet.new(STEPS, values).exit_code == ExitCode.FINISHED
    for number, name in enumerate(names):
        busy = make_workshop(f"busy {number}")
        assert busy.new(STEPS, {**values, **CADENCES[name]}).exit_code == ExitCode.FINISHED, name
        assert busy.losses() == quiet.losses(), name
        assert busy.digest() == quiet.digest(), name


WATCHED: dict[str, Values] = {
    "dropout": {("adapter", "dropout"): 0.3, ("training", "batch_size"): 2},
    "text encoder": {("adapter", "train_text_encoder"): True, ("adapter", "dropout"): 0.1},
    "checkpointing, accumulated": {("training", "gradient_checkpointing"): True, ("training", "accumulation_steps"): 2},
    "half precision": {("model", "precision"): "bf16", ("adapter", "dropout"): 0.1},
}


@pytest.mark.ci
@pytest.mark.parametrize("values", WATCHED.values(), ids=WATCHED)
def test_looking_at_every_step_or_never_same_bytes(
    make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch, values: Values
) -> None:
    """Samples, validation, CLIP and the control, after every step; the pictures held out are the same ones."""
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1.0)
    sample_in(monkeypatch, 3)  # nobody looks at the pictures
    blind, watched = make_workshop("blind"), make_workshop("watched")
    clip = tiny_clip(watched.folder / "clip")
    apart: Values = {("dataset", "hold_out"): 1, **values}
    blind.new(2, apart)
    outcome = watched.new(2, {**apart, **EVALUATIONS, ("evaluation", "clip_model"): str(clip)})
    assert [event.step for event in outcome.of(Evaluated) if not event.is_control] == [0, 1, 2]
    assert watched.losses() == blind.losses()
    assert watched.digest() == blind.digest()


def test_states_and_exports_follow_the_cadence(workshop: Workshop) -> None:
    workshop.new(7, {("cadence", "save_every"): 2, ("cadence", "keep_states"): 2})
    assert workshop.states() == [7, 6]
    exports = sorted(path.name for path in workshop.run.root.glob("*.safetensors"))
    steps = [f"last-step{step:08d}.safetensors" for step in (2, 4, 6)]
    assert exports == [*steps, "last.safetensors"]


def test_minutes_save_states_without_exports(workshop: Workshop) -> None:
    workshop.new(3, {("cadence", "save_minutes"): 1e-9})
    assert workshop.states() == [3, 2, 1]
    assert [path.name for path in workshop.run.root.glob("*.safetensors")] == ["last.safetensors"]
