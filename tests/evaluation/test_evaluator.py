"""When something is measured, what is told of it, and that everything is left as it was found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from lorasmith.adapters.base import AdapterLayer
from lorasmith.errors import ModelError, ResourceError
from lorasmith.evaluation import evaluator
from lorasmith.evaluation.evaluator import Evaluator, undisturbed
from lorasmith.evaluation.samples import generate
from lorasmith.evaluation.validation import ValidationLosses
from lorasmith.runs.events import Evaluated, Event, RunStarted, Warned
from lorasmith.session.loaded import LoadedRun
from tests.end_to_end.workshop import Workshop, digest, load, stage
from tests.evaluation.few_steps import sample_in

Clock = list[float]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    now = [0.0]
    monkeypatch.setattr(evaluator, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def loaded(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> LoadedRun:
    sample_in(monkeypatch, 3)  # nobody looks at the pictures
    workshop.run.root.mkdir()
    values = {
        ("evaluation", "every"): 2,
        ("evaluation", "examples"): 2,
        ("dataset", "hold_out"): 1,
        ("adapter", "dropout"): 0.5,
    }
    stage(workshop.start_new(8, values))
    found = load(workshop.run, stop_at=8)
    found.evaluator.restore([])
    return found


def evaluated(loaded: LoadedRun, *, stop: Callable[[], bool] = lambda: False, is_end: bool = False) -> list[Event]:
    return loaded.evaluator.evaluate(
        loaded.state, loaded.context, is_end=is_end, beat=lambda step, phase: None, stop_requested=stop
    )


# -- when ------------------------------------------------------------------------------------------


def due(evaluator: Evaluator, *steps: int) -> list[int]:
    return [step for step in steps if evaluator.is_due(step)]


def test_every_so_many_steps(loaded: LoadedRun) -> None:
    assert due(loaded.evaluator, 1, 2, 3, 4) == [2, 4]
    loaded.evaluator.evaluated_step = 2
    assert due(loaded.evaluator, 2, 4) == [4]
    loaded.evaluator.occasions = replace(loaded.evaluator.occasions, every_steps=0)
    assert due(loaded.evaluator, 1, 2) == []
    loaded.state.step = 2
    assert evaluated(loaded, is_end=True) == []


def test_at_most_a_tenth_of_the_time(loaded: LoadedRun, clock: Clock) -> None:
    """An evaluation of 10 s needs 90 s of training before it."""
    one = loaded.evaluator
    one.began_at, one.cost_seconds = 1000.0, 10.0
    for now, is_due in ((1010.0, False), (1089.0, False), (1090.0, True), (1500.0, True)):
        clock[0] = now
        assert one.is_due(4) == is_due
    one.spent_seconds = 20.0  # 30 of 300 with this one
    for now, is_due in ((1289.0, False), (1290.0, True)):
        clock[0] = now
        assert one.is_due(4) == is_due


@pytest.mark.ci
def test_however_long_one_takes_all_but_the_first_take_a_tenth(
    loaded: LoadedRun, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of 1 s, evaluations of 7 s: the first is not known before, every later one keeps all of them in a tenth."""

    def slow(*arguments: Any, **named: Any) -> Any:
        clock[0] += 7.0
        return generate(*arguments, **named)

    monkeypatch.setattr(evaluator, "generate", slow)
    one, spent, shares = loaded.evaluator, 0.0, []
    one.began_at = 0.0
    for step in range(1, 601):
        clock[0] += 1.0
        loaded.state.step = step
        if not one.is_due(step):
            continue
        spent += sum(event.seconds for event in evaluated(loaded) if isinstance(event, Evaluated))
        shares.append(spent / clock[0])
    assert len(shares) > 5
    assert shares[0] > 0.1 and max(shares[1:]) <= 0.1


def test_less_often_is_said_once(loaded: LoadedRun, clock: Clock) -> None:
    one = loaded.evaluator
    assert one.postponed(2) is None
    one.began_at, one.cost_seconds, clock[0] = 0.0, 10.0, 20.0
    assert one.postponed(3) is None
    warned = one.postponed(4)
    assert warned is not None
    assert (warned.code, warned.fields) == ("evaluation_less_often", {"seconds": 10.0, "percent": 10})
    assert one.postponed(6) is None


def test_the_control_counts_once(loaded: LoadedRun, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was spent; but the next evaluation will be without it."""

    def slow(*arguments: Any, **named: Any) -> Any:
        clock[0] += 7.0
        return generate(*arguments, **named)

    monkeypatch.setattr(evaluator, "generate", slow)
    control, plain = evaluated(loaded)
    assert isinstance(control, Evaluated)
    assert isinstance(plain, Evaluated)
    assert (control.seconds, plain.seconds) == (7.0, 7.0)
    assert (loaded.evaluator.cost_seconds, loaded.evaluator.spent_seconds) == (7.0, 14.0)


# -- what ------------------------------------------------------------------------------------------


def test_the_control_comes_first_and_once(loaded: LoadedRun) -> None:
    with torch.no_grad():
        loaded.state.adapter.flat.add_(0.05)
    first = evaluated(loaded)
    assert [one.is_control for one in first if isinstance(one, Evaluated)] == [True, False]
    control, plain = first
    assert isinstance(control, Evaluated)
    assert isinstance(plain, Evaluated)
    assert control.validation != plain.validation
    assert control.visual != plain.visual
    loaded.state.step = 2
    (again,) = evaluated(loaded)
    assert isinstance(again, Evaluated)
    assert (again.visual, again.color, again.validation) == (plain.visual, plain.color, plain.validation)
    assert evaluated(loaded) == []  # this step has been


def test_the_control_is_the_base_model(loaded: LoadedRun) -> None:
    """Whatever has been learned: with an untouched adapter both are one."""
    control, plain = evaluated(loaded)
    assert isinstance(control, Evaluated)
    assert isinstance(plain, Evaluated)
    assert (control.visual, control.validation) == (plain.visual, plain.validation)


def test_what_is_told(loaded: LoadedRun) -> None:
    *_, told = evaluated(loaded)
    assert isinstance(told, Evaluated)
    assert told.unavailable == {"semantic": "no_clip_model"}
    assert told.validation is not None
    assert (told.validation["examples"], told.validation["is_held_out"]) == (1, True)
    assert [one["path"] for one in told.samples] == [f"samples/step-00000000/example-{n:02d}.png" for n in (1, 2)]
    assert all((loaded.run.root / one["path"]).stat().st_size > 100 for one in told.samples)
    assert told.samples[0]["example"] == str(loaded.held_out[0].image)
    visual = [one["visual"] for one in told.samples]
    assert told.visual == pytest.approx(sum(visual) / 2)


# -- without a trace -------------------------------------------------------------------------------


def test_everything_is_as_it_was(loaded: LoadedRun) -> None:
    """Module for module: some may be in training mode for reasons of their own."""
    denoiser = loaded.context.models["denoiser"]
    odd = next(one for name, one in denoiser.named_modules() if name.endswith("attentions.0"))
    odd.training = True
    modes = [one.training for one in denoiser.modules()]
    loaded.state.adapter.gradient().fill_(3.0)
    before = digest([loaded.state.adapter.tensors(), loaded.state.optimizer.state_dict(), torch.get_rng_state()])
    seen: list[tuple[bool, bool]] = []

    def watched(*arguments: Any, **named: Any) -> Any:
        seen.append((any(one.training for one in denoiser.modules()), torch.is_grad_enabled()))
        return generate(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "generate", watched)
        evaluated(loaded)
    assert seen == [(False, False), (False, False)]
    assert [one.training for one in denoiser.modules()] == modes
    after = digest([loaded.state.adapter.tensors(), loaded.state.optimizer.state_dict(), torch.get_rng_state()])
    assert after == before
    assert bool((loaded.state.adapter.gradient() == 3.0).all())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("error", [None, KeyError("broken")])
def test_dropout_and_strength_come_back(loaded: LoadedRun, error: Exception | None) -> None:
    layers = [module for module in loaded.context.models["denoiser"].modules() if isinstance(module, AdapterLayer)]
    assert layers
    try:
        with undisturbed(loaded.state.adapter, loaded.context.models):
            loaded.state.adapter.set_multiplier(0.0)
            assert not any(layer.dropout_active for layer in layers)
            if error is not None:
                raise error
    except KeyError:
        assert error is not None
    assert all(layer.dropout_active and layer.multiplier == 1.0 for layer in layers)


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [*(pytest.param(one, marks=pytest.mark.ci) for one in (0, 1, 5, 10, 14)), 19])
def test_a_stop_leaves_nothing_half_done(loaded: LoadedRun, after: int) -> None:
    """Asked at some unit of work: what is told is whole, and has its pictures."""
    count = [0]

    def stop() -> bool:
        count[0] += 1
        return count[0] > after

    told = evaluated(loaded, stop=stop)
    assert count[0] == after + 1
    assert [type(one) for one in told] in ([], [Evaluated])
    folders = sorted(path.name for path in loaded.run.samples.iterdir()) if loaded.run.samples.exists() else []
    assert folders == ["control"] * len(told)
    assert loaded.evaluator.has_baseline == bool(told)
    assert loaded.evaluator.evaluated_step == -1
    assert len(evaluated(loaded)) == 2 - len(told)


def test_a_sign_of_life_at_each_unit_of_work(loaded: LoadedRun) -> None:
    beats: list[tuple[int, str]] = []
    loaded.evaluator.evaluate(
        loaded.state,
        loaded.context,
        is_end=False,
        beat=lambda step, phase: beats.append((step, phase)),
        stop_requested=lambda: False,
    )
    assert set(beats) == {(0, "evaluating")}
    assert len(beats) > 2 * 7


MISSING: dict[str, tuple[Exception, str]] = {
    "memory": (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
    "memory of the CPU": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
    "model": (ModelError("model_layers", path="x", component="vae", count=1, first="y"), "base_model_failed"),
    "file": (FileNotFoundError("model.safetensors"), "base_model_failed"),
}


@pytest.mark.parametrize(("error", "code"), MISSING.values(), ids=MISSING)
def test_pictures_that_cannot_be_made(
    loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(type(loaded.context.family), "load_encoders", fail)
    *_, told = evaluated(loaded)
    assert isinstance(told, Evaluated)
    assert (told.visual, told.semantic, told.color, told.samples) == (None, None, None, [])
    assert told.unavailable == dict.fromkeys(("visual", "semantic", "color"), code)
    assert told.validation is not None


def test_our_own_mistakes_are_not_swallowed(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(type(loaded.context.family), "load_encoders", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        evaluated(loaded)


@pytest.mark.parametrize("kind", ["memory", "numbers"])
def test_a_validation_loss_that_cannot_be_measured(
    loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        if kind == "memory":
            raise torch.OutOfMemoryError
        return ValidationLosses(((float("nan"),),))

    monkeypatch.setattr(evaluator, "validation_losses", fail)
    *_, told = evaluated(loaded)
    assert isinstance(told, Evaluated)
    assert told.validation is None
    assert told.unavailable["validation"] == ("out_of_memory" if kind == "memory" else "not_finite")
    assert told.visual is not None


@pytest.mark.parametrize(
    "error", [pytest.param(ResourceError("disk_full", path="x"), marks=pytest.mark.ci), PermissionError("no")]
)
def test_pictures_that_cannot_be_written(loaded: LoadedRun, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(evaluator, "write_atomically", fail)
    *_, told = evaluated(loaded)
    assert isinstance(told, Evaluated)
    assert told.samples == []
    assert told.unavailable["samples"] == "samples_not_written"
    assert told.visual is not None


def test_a_clip_that_fails_is_said_once(loaded: LoadedRun) -> None:
    loaded.evaluator.metrics.failed(ModelError("clip_model", model="x", reason="broken"))
    first = evaluated(loaded)
    (warned,) = [one for one in first if isinstance(one, Warned)]
    assert (warned.code, warned.fields) == ("clip_failed", {"model": "x", "reason": "broken"})
    loaded.state.step = 2
    (later,) = evaluated(loaded)
    assert isinstance(later, Evaluated)
    assert later.unavailable == {"semantic": "clip_failed"}


# -- going on --------------------------------------------------------------------------------------


def started(loaded: LoadedRun, **evaluation_settings: Any) -> RunStarted:
    plain = {**loaded.evaluator.settings.model_dump(mode="json"), **evaluation_settings}
    return RunStarted(attempt=1, time=0.0, identity="", resumed_from=None, stop_at=8, settings={"evaluation": plain})


def test_what_was_measured_is_not_measured_again(loaded: LoadedRun) -> None:
    events = evaluated(loaded)
    fresh = Evaluator(
        loaded.run,
        2,
        loaded.evaluator.occasions,
        loaded.evaluator.settings,
        loaded.evaluator.measured_on,
        loaded.evaluator.metrics,
    )
    fresh.restore([started(loaded, every=99), *events])
    assert fresh.has_baseline
    assert fresh.evaluated_step == 0
    assert fresh.cost_seconds > 0


@pytest.mark.parametrize(
    "change",
    [
        {"strength": 0.1},
        *(pytest.param(one, marks=pytest.mark.ci) for one in ({"clip_model": "other"}, {"sample_prompts": ["a cat"]})),
    ],
)
def test_another_control_gets_its_own_folder(loaded: LoadedRun, change: dict[str, Any]) -> None:
    """Nothing that was made is overwritten."""
    events = evaluated(loaded)
    kept = {path: path.read_bytes() for path in (loaded.run.samples / "control").iterdir()}
    loaded.evaluator.restore([started(loaded, **change), *events])
    assert not loaded.evaluator.has_baseline
    loaded.state.step = 2
    control, _ = evaluated(loaded)
    assert isinstance(control, Evaluated)
    assert {one["path"].split("/")[1] for one in control.samples} == {"control_2"}
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_start_after_one_that_died_measuring(loaded: LoadedRun) -> None:
    """One picture at a time; after the second time in a row nothing is measured in this start."""
    one = loaded.evaluator
    (died,) = one.restore([], has_died=True)
    assert isinstance(died, Warned)
    assert (died.code, one.at_once, one.is_on) == ("evaluation_died", 1, True)
    assert one.restore([died], has_died=False) == []
    (off,) = one.restore([died], has_died=True)
    assert isinstance(off, Warned)
    assert (off.code, one.is_on) == ("evaluation_off", False)
    one.gave_up = False
    (again,) = one.restore([died, off, *evaluated(loaded)], has_died=True)  # between them it went well
    assert isinstance(again, Warned)
    assert again.code == "evaluation_died"
