"""What is measured in a run, through real runs: events, files, the control, the best step, stops and going on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lorasmith.errors import ConfigError, ExitCode, NoStateError
from lorasmith.evaluation import evaluator
from lorasmith.evaluation.evaluator import Evaluator
from lorasmith.runs.events import (
    AdapterExported,
    BestChosen,
    CheckpointSaved,
    Evaluated,
    Event,
    RunStarted,
    StepCompleted,
    Warned,
)
from lorasmith.runs.ledger import read_events, steps
from lorasmith.runs.process_files import HeartbeatWriter
from lorasmith.session.recorder import Recorder
from tests.end_to_end.workshop import Outcome, Workshop, tree
from tests.evaluation.few_steps import sample_in
from tests.families.tiny import tiny_clip

MakeWorkshop = Callable[[str], Workshop]
EVERY_TWO: dict[tuple[str, str], Any] = {
    ("evaluation", "every"): 2,
    ("evaluation", "examples"): 1,
    ("cadence", "save_every"): 2,
    ("dataset", "hold_out"): 2,
}


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a miniature are shorter than looking at what they did; and nobody looks at its pictures."""
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1.0)
    sample_in(monkeypatch, 3)


def losses(monkeypatch: pytest.MonkeyPatch, by_step: dict[int, float]) -> None:
    """Validation losses as given, where the real ones hardly differ."""
    real = Evaluator.evaluate

    def evaluate(self: Evaluator, state: Any, *arguments: Any, **named: Any) -> list[Event]:
        events = real(self, state, *arguments, **named)
        for event in events:
            if isinstance(event, Evaluated) and not event.is_control and event.step in by_step:
                assert event.validation is not None
                event.validation["loss"] = by_step[event.step]
        return events

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)


def told(outcome: Outcome) -> list[str]:
    kinds = {AdapterExported: "exported", BestChosen: "best"}
    lines = []
    for event in outcome.events:
        if isinstance(event, Evaluated):
            lines.append(f"{'control' if event.is_control else 'measured'} {event.step}")
        elif type(event) in kinds:
            lines.append(f"{kinds[type(event)]} {event.step}")  # type: ignore[attr-defined]
    return lines


# -- when and what ---------------------------------------------------------------------------------


@pytest.mark.ci
def test_the_order_of_what_is_told(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved and exported first: nothing that goes wrong in looking can lose anything."""
    losses(monkeypatch, {2: 0.5, 4: 0.6, 5: 0.4})
    outcome = workshop.new(5, EVERY_TWO)
    assert outcome.exit_code == ExitCode.FINISHED
    assert told(outcome) == [
        "exported 2", "control 2", "measured 2", "best 2", "exported 4", "measured 4", "exported 5", "measured 5",
        "best 5",
    ]  # fmt: skip


def test_files(workshop: Workshop) -> None:
    more = {("evaluation", "sample_prompts"): ("a red ring",), ("evaluation", "examples"): 2}
    workshop.new(3, {**EVERY_TWO, **more})
    names = ["example-01.png", "example-02.png", "prompt-01.png"]
    folders = ["control", "step-00000002", "step-00000003"]
    assert sorted(path.name for path in workshop.run.samples.iterdir()) == folders
    for folder in folders:
        assert sorted(path.name for path in (workshop.run.samples / folder).iterdir()) == names
    for event in read_events(workshop.run.ledger):
        if isinstance(event, Evaluated):
            assert all((workshop.run.root / one["path"]).is_file() for one in event.samples)


@pytest.mark.parametrize(
    ("every", "save_every", "expected"),
    [
        (0, 2, []),
        (None, 2, [2, 3]),
        pytest.param(None, 0, [], marks=pytest.mark.ci),
        pytest.param(2, 0, [2, 3], marks=pytest.mark.ci),
    ],
)
def test_when(workshop: Workshop, every: int | None, save_every: int, expected: list[int]) -> None:
    """0 is never, at the end neither; unnamed it follows the saves."""
    values = {("evaluation", "every"): every, ("cadence", "save_every"): save_every, ("evaluation", "examples"): 1}
    found = [event for event in workshop.new(3, values).of(Evaluated) if not event.is_control]
    assert [event.step for event in found] == expected
    assert workshop.run.samples.exists() == bool(expected)


def test_held_out_pictures_are_measured_and_never_trained_on(workshop: Workshop) -> None:
    more = {("training", "batch_size"): 2, ("evaluation", "examples"): 2, ("evaluation", "every"): 8}
    outcome = workshop.new(8, {**EVERY_TWO, **more})
    (started,) = outcome.of(RunStarted)
    assert len(started.held_out) == 2
    used = {started.examples[one]["path"] for event in outcome.of(StepCompleted) for one in event.example_ids}
    assert used
    assert not used & set(started.held_out)
    for event in outcome.of(Evaluated):
        assert {one["example"] for one in event.samples} == set(started.held_out)
        assert (event.validation["is_held_out"], event.validation["examples"]) == (True, 2)


def test_without_held_out_pictures_nothing_is_chosen(workshop: Workshop) -> None:
    outcome = workshop.new(4, {**EVERY_TWO, ("dataset", "hold_out"): 0})
    assert [event.validation["is_held_out"] for event in outcome.of(Evaluated)] == [False] * 3
    assert outcome.of(BestChosen) == []
    assert not workshop.run.export("last-best").exists()


@pytest.mark.ci
def test_with_clip(workshop: Workshop) -> None:
    clip = tiny_clip(workshop.folder / "fashion")
    outcome = workshop.new(2, {**EVERY_TWO, ("evaluation", "clip_model"): "fashion"})
    for event in outcome.of(Evaluated):
        assert event.unavailable == {}
        assert 0 < event.semantic < 2
        assert all(one["nearest"] and -1 <= one["nearest_similarity"] <= 1 for one in event.samples)
    started = outcome.of(RunStarted)[0]
    assert started.settings["evaluation"]["clip_model"] == str(clip)


@pytest.mark.ci
def test_the_base_model_s_own_clip(workshop: Workshop) -> None:
    own = workshop.folder / "base"
    own.mkdir()
    for part in workshop.base_model.iterdir():
        (own / part.name).symlink_to(part)
    tiny_clip(own / "clip")
    outcome = workshop.new(1, {**EVERY_TWO, ("model", "base_model"): str(own)})
    assert [event.unavailable for event in outcome.of(Evaluated)] == [{}, {}]


@pytest.mark.ci
def test_a_clip_that_is_none_ends_nothing(workshop: Workshop) -> None:
    outcome = workshop.new(2, {**EVERY_TWO, ("evaluation", "clip_model"): "no/such/model"})
    assert outcome.exit_code == ExitCode.FINISHED
    assert [event.unavailable for event in outcome.of(Evaluated)] == [{"semantic": "clip_failed"}] * 2


def test_the_time_of_looking_is_no_step_s(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorasmith.engine import step
    from lorasmith.session import loop, outputs, recorder

    clock = [0.0]
    evaluate = Evaluator.evaluate

    def train_step(state: Any, context: Any, **how: Any) -> Any:
        clock[0] += 2.0
        return step.train_step(state, context, **how)

    def looking(self: Evaluator, *arguments: Any, **named: Any) -> Any:
        clock[0] += 1000.0
        return evaluate(self, *arguments, **named)

    monkeypatch.setattr(loop, "train_step", train_step)
    monkeypatch.setattr(Evaluator, "evaluate", looking)
    for module in (outputs, recorder):
        monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    outcome = workshop.new(3, EVERY_TWO)
    assert [event.seconds for event in outcome.of(StepCompleted)] == [2.0] * 3


@pytest.mark.ci
def test_at_most_a_tenth_of_the_time_but_at_the_end(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1e-9)
    outcome = workshop.new(5, EVERY_TWO)
    measured = [event.step for event in outcome.of(Evaluated) if not event.is_control]
    assert measured == [2, 5]
    assert [event.code for event in outcome.warned] == ["evaluation_less_often"]


# -- stops and going on ----------------------------------------------------------------------------


def test_a_stop_while_looking_ends_the_looking(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorasmith.runs.process_files import request_stop

    beat = Recorder.beat

    def stopping(self: Recorder, step: int, phase: str, **how: int) -> None:
        beat(self, step, phase, **how)
        if phase == "evaluating":
            request_stop(workshop.run, self.attempt)

    monkeypatch.setattr(Recorder, "beat", stopping)
    outcome = workshop.new(4, EVERY_TWO)
    assert outcome.exit_code == ExitCode.STOPPED
    assert outcome.of(Evaluated) == []
    assert len(outcome.of(StepCompleted)) == 2
    assert workshop.states()[0] == 2
    assert not workshop.run.samples.exists()


@pytest.mark.ci
def test_a_stop_at_the_last_look_is_no_failure(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from lorasmith.runs.process_files import request_stop

    beat = Recorder.beat

    def stopping(self: Recorder, step: int, phase: str, **how: int) -> None:
        beat(self, step, phase, **how)
        if phase == "evaluating" and step == 3:
            request_stop(workshop.run, self.attempt)

    monkeypatch.setattr(Recorder, "beat", stopping)
    outcome = workshop.new(3, EVERY_TWO)
    assert outcome.exit_code == ExitCode.FINISHED
    assert [event.step for event in outcome.of(Evaluated)] == [2, 2]


@pytest.mark.ci
def test_going_on_takes_no_second_control(workshop: Workshop) -> None:
    workshop.new(2, EVERY_TWO)
    pictures = tree(workshop.run.samples / "control")
    outcome = workshop.go_on(2)
    assert [event.is_control for event in outcome.of(Evaluated)] == [False]
    assert tree(workshop.run.samples / "control") == pictures


def test_the_measures_of_a_continued_run_are_those_of_one_that_never_stopped(make_workshop: MakeWorkshop) -> None:
    apart, straight = make_workshop("apart"), make_workshop("straight")
    apart.new(2, EVERY_TWO)
    apart.go_on(2)
    straight.new(4, EVERY_TWO)

    def measured(workshop: Workshop) -> list[Any]:
        found = [event for event in workshop.events() if isinstance(event, Evaluated)]
        return [(one.step, one.is_control, one.visual, one.color, one.validation) for one in found]

    assert measured(apart) == measured(straight)
    for step in ("control", "step-00000002", "step-00000004"):
        assert tree(apart.run.samples / step) == tree(straight.run.samples / step)


@pytest.mark.ci
@pytest.mark.parametrize("last_word", [False, True], ids=["killed", "ended by itself"])
def test_after_a_kill_while_measuring_less_is_done_at_once(workshop: Workshop, last_word: bool) -> None:
    """As where the system has no memory left: the last sign of life was about measuring, and nothing came after it."""
    workshop.new(4, EVERY_TWO, stop_after=1)
    if not last_word:
        lines = workshop.run.ledger.read_bytes().splitlines(keepends=True)
        assert b"RunStopped" in lines[-1]
        workshop.run.ledger.write_bytes(b"".join(lines[:-1]))
    heart = HeartbeatWriter(workshop.run.heartbeat)
    heart.beat(1, "evaluating")
    heart.close()
    outcome = workshop.go_on(None)
    assert [event.code for event in outcome.warned] == ([] if last_word else ["evaluation_died"])
    assert [event.step for event in outcome.of(Evaluated)] == [2, 2, 4]


# -- the best step ---------------------------------------------------------------------------------


def best_file(workshop: Workshop) -> bytes:
    return workshop.run.export("last-best").read_bytes()


def test_the_best_is_kept_with_its_state(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, {2: 0.5, 4: 0.3, 6: 0.6, 8: 0.7, 9: 0.8})
    workshop.new(9, {**EVERY_TWO, ("cadence", "keep_states"): 2})
    assert workshop.states() == [9, 8, 4]
    assert best_file(workshop) == workshop.run.export("last", 4).read_bytes()
    chosen = [event for event in workshop.events() if isinstance(event, BestChosen)]
    assert [event.step for event in chosen] == [2, 4]
    workshop.go_on(1)  # it is known to the next start too
    assert workshop.states() == [10, 9, 4]


@pytest.mark.ci
def test_going_on_from_the_best(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, {2: 0.5, 4: 0.3, 6: 0.6})
    workshop.new(6, EVERY_TWO)
    kept = best_file(workshop)
    outcome = workshop.go_on(1, from_state="best")
    (started,) = outcome.of(RunStarted)
    assert (started.resumed_from, started.stop_at) == (4, 5)
    assert best_file(workshop) == kept
    assert max(event.step for event in steps(workshop.events())) == 5


def test_the_best_goes_with_a_step_that_is_taken_back(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    losses(monkeypatch, {2: 0.5, 4: 0.6, 6: 0.3, 7: 0.9})
    workshop.new(6, EVERY_TWO)
    cancelled = best_file(workshop)
    before = workshop.run.export("last", 2).read_bytes()
    workshop.go_on(1, from_state="4")
    (backup,) = workshop.run.backup.glob("run_*")
    assert (backup / "last-best.safetensors").read_bytes() == cancelled
    assert (backup / "samples" / "step-00000006").is_dir()
    assert best_file(workshop) == before  # of step 2 again, as step 6 never happened
    assert (workshop.run.samples / "control").is_dir()


@pytest.mark.ci
def test_from_best_where_nothing_is_held_out(workshop: Workshop) -> None:
    workshop.new(2, {**EVERY_TWO, ("dataset", "hold_out"): 0})
    with pytest.raises(ConfigError) as caught:
        workshop.go_on(1, from_state="best")
    assert (caught.value.code, caught.value.exit_code) == ("no_best_state", ExitCode.BAD_INPUT)


@pytest.mark.ci
def test_from_best_where_nothing_was_chosen_yet(workshop: Workshop) -> None:
    workshop.new(2, {("dataset", "hold_out"): 2})
    with pytest.raises(ConfigError) as caught:
        workshop.go_on(1, from_state="best")
    assert caught.value.code == "best_not_chosen"


@pytest.mark.ci
def test_from_best_where_its_state_is_gone(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    losses(monkeypatch, {2: 0.1, 4: 0.6})
    outcome = workshop.new(4, EVERY_TWO)
    (saved,) = [event for event in outcome.of(CheckpointSaved) if event.step == 2]
    shutil.rmtree(workshop.run.root / saved.path)
    with pytest.raises(NoStateError) as caught:
        workshop.go_on(1, from_state="best")
    assert caught.value.code == "state_unknown"


@pytest.mark.ci
def test_a_held_out_picture_that_is_gone_is_said_and_the_loss_is_measured_on_those_left(workshop: Workshop) -> None:
    """And with all of them gone on none: what is trained on is no stand-in for them."""
    workshop.new(2, EVERY_TWO)
    held_out = [Path(path) for path in started_of(workshop).held_out]
    held_out[0].unlink()
    outcome = workshop.go_on(2)
    (warned,) = [one for one in outcome.of(Warned) if one.code == "held_out_changed"]
    assert warned.fields == {"step": 2, "left": 1, "held_out": 2}
    first, second = [one for one in workshop.events() if isinstance(one, Evaluated) and not one.is_control][-2:]
    assert first.validation and second.validation
    assert (first.validation["examples"], second.validation["examples"]) == (2, 1)
    assert second.validation["is_held_out"] and first.validation["pictures"] != second.validation["pictures"]
    assert workshop.go_on(2).warned == []  # said once

    Image.new("RGB", (64, 64)).save(held_out[1])  # changed: it counts as new
    outcome = workshop.go_on(2)
    assert [one.code for one in outcome.of(Warned)][-1] == "held_out_none_left"
    last = [one for one in outcome.of(Evaluated) if not one.is_control][-1]
    assert (last.validation, last.unavailable["validation"]) == (None, "held_out_gone")
    assert str(held_out[1]) in {one["path"] for one in outcome.of(RunStarted)[0].examples}


@pytest.mark.ci
def test_another_loss_cannot_be_compared_and_the_best_step_is_chosen_anew(workshop: Workshop) -> None:
    workshop.new(2, EVERY_TWO)
    outcome = workshop.go_on(2, {("loss", "loss_type"): "l1"})
    assert [(one.code, one.fields["step"]) for one in outcome.warned] == [("validation_loss_changed", 2)]
    assert [one.step for one in outcome.of(BestChosen)] == [4]
    before, after = [one for one in workshop.events() if isinstance(one, Evaluated) and not one.is_control][-2:]
    assert before.validation and after.validation
    assert before.validation["pictures"] != after.validation["pictures"]
    assert workshop.go_on(2).warned == []


def started_of(workshop: Workshop) -> RunStarted:
    return next(one for one in workshop.events() if isinstance(one, RunStarted))
