"""Every optimizer of the table with its options: 3 steps, a state, 4 steps are 7 steps, or the run says that not."""

import inspect
from typing import Any

import pytest
import torch

from lorasmith.adapters import ADAPTERS
from lorasmith.engine import optimizers
from lorasmith.engine.optimizers import OPTIMIZERS, RESERVED, check_optimizer
from lorasmith.errors import ConfigError, ExitCode
from lorasmith.runs.events import Warned
from lorasmith.session.resume import continues_exactly
from tests.end_to_end.workshop import Workshop

CPU = torch.device("cpu")
HERE = ("adamw", "adafactor", "lion", "prodigy")
FORGETFUL = ["KeepsAnAttribute", "DrawsAtRandom", "KeepsLess"]
# Values for every option that changes how an update is computed.
VALUES: dict[str, list[Any]] = {
    "amsgrad": [True],
    "betas": [[0.5, 0.9]],
    "eps": [1e-3],
    "weight_decay": [0.1],
    "beta2_decay": [-0.5],
    "d": [2.0],
    "decoupled_weight_decay": [True],
    "beta3": [0.9],
    "decouple": [False],
    "use_bias_correction": [True],
    "safeguard_warmup": [True],
    "d0": [1e-3],
    "d_coef": [2.0],
    "growth_rate": [1.02],
    "slice_p": [11],
}
PAIRS = {("adafactor", "eps"): [[1e-8, 1e-3]]}


def accepted(name: str) -> list[str]:
    return sorted(set(inspect.signature(check_optimizer(name, {})).parameters) - RESERVED)


def exactly(name: str, options: dict[str, Any]) -> bool:
    lr = 1.0 if name == "prodigy" else 1e-3
    return continues_exactly(name, options, adapter="lora", lr=lr, device=CPU)


@pytest.mark.parametrize("name", HERE)
def test_every_option_continues_to_the_bit(name: str) -> None:
    assert exactly(name, {})
    for option in accepted(name):
        for value in PAIRS.get((name, option), VALUES[option]):
            assert exactly(name, {option: value}), (option, value)


def test_all_at_once() -> None:
    options = {"slice_p": 7, "safeguard_warmup": True, "use_bias_correction": True, "growth_rate": 1.1, "d0": 1e-2}
    assert exactly("prodigy", options)
    assert exactly("adamw", {"amsgrad": True, "weight_decay": 0.1})


@pytest.mark.parametrize("kind", FORGETFUL)
def test_what_does_not_is_found(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setitem(OPTIMIZERS, "lion", f"tests.engine.forgetful:{kind}")
    assert not exactly("lion", {})


def test_the_trial_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(OPTIMIZERS, "lion", "tests.engine.forgetful:DrawsAtRandom")
    before = torch.random.get_rng_state()
    exactly("lion", {})
    exactly("prodigy", {"weight_decay": 0.1})  # its library prints
    assert torch.equal(torch.random.get_rng_state(), before)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("kind", "is_said"), [("KeepsAnAttribute", True), ("Remembers", False)])
def test_the_run_says_so_when_it_is_chosen(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, kind: str, is_said: bool
) -> None:
    """In its first lines, before the first step, and in the ledger, from which the report has it."""
    monkeypatch.setitem(optimizers.OPTIMIZERS, "lion", f"tests.engine.forgetful:{kind}")
    values = {("optimizer", "name"): "lion", ("optimizer", "options"): {"betas": [0.5, 0.9]}}
    outcome = workshop.new(1, values)
    assert outcome.exit_code == ExitCode.FINISHED
    fields = {"optimizer": "lion", "options": "betas=[0.5, 0.9]"}
    for events in (outcome.events, workshop.events()):
        said = [one.fields for one in events if isinstance(one, Warned) and one.code == "resume_not_exact"]
        assert said == ([fields] if is_said else [])


@pytest.mark.parametrize(("name", "option"), [("lion", "use_triton"), ("prodigy", "fsdp_in_use")])
def test_how_an_update_is_carried_out_is_no_option(name: str, option: str) -> None:
    """Where there is no triton, Lion's library leaves the process."""
    with pytest.raises(ConfigError, match="optimizer_unknown_option"):
        check_optimizer(name, {option: True})


@pytest.mark.parametrize("kind", ADAPTERS)
def test_no_kind_of_adapter_is_taken_for_an_optimizer_that_does_not_continue(kind: str) -> None:
    """Some begin as the weights of the layers do, which must be the same in each of the trials."""
    assert all(continues_exactly("adamw", {}, adapter=kind, lr=1e-3, device=CPU) for _ in range(3))
