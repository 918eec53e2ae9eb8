"""Every optimizer of the table with its options: 3 steps, a state, 4 steps are 7 steps, or the run says that not."""

import inspect
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from lorasmith.adapters import ADAPTERS
from lorasmith.config import OptimizerConfig
from lorasmith.config.optimizer_table import OPTIMIZERS, known_optimizer
from lorasmith.engine.optimizers import RESERVED, check_optimizer
from lorasmith.errors import ConfigError, ExitCode
from lorasmith.runs.events import Warned
from lorasmith.session.resume import check_exactness, continues_exactly
from tests.end_to_end.workshop import Workshop
from tests.session import cut_in_two

CPU = torch.device("cpu")
HERE = ("adamw", "adafactor", "lion", "prodigy")
TABLE = [name for name, known in OPTIMIZERS.items() if find_spec(known.path.partition(":")[0].split(".")[0])]
NO_STARTUP: Any = None  # nothing is said of what is refused
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


def exactly(name: str, options: dict[str, Any], dtype: torch.dtype = torch.float32) -> bool:
    known = known_optimizer(name)
    lr = 1.0 if known is not None and known.finds_rate else 1e-3
    return continues_exactly(name, options, adapter="lora", lr=lr, device=CPU, dtype=dtype)


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


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_name_continues_to_the_bit(name: str) -> None:
    assert exactly(name, {})
    assert exactly(name, {}, torch.bfloat16)


def test_all_that_can_be_tried_here_is() -> None:
    """bitsandbytes aside, which comes with the extra `cuda`, everything that has a name is installed with the tests."""
    missing = {name for name in OPTIMIZERS if name not in TABLE}
    assert {OPTIMIZERS[name].package for name in missing} <= {"bitsandbytes"}


@pytest.mark.ci
def test_in_another_process(tmp_path: Path) -> None:
    """All names of the table: 7 steps here are 3 steps there, the state in a file, and 4 steps in a process of their
    own."""
    names = sorted(TABLE)
    for part in ("first", "rest"):
        command = [sys.executable, "-m", "tests.session.cut_in_two", part, str(tmp_path), *names]
        subprocess.run(command, check=True, capture_output=True, timeout=280)
    for name in names:
        straight = cut_in_two.state_of(name)
        cut_in_two.take_steps(name, straight, cut_in_two.END)
        found = torch.load(tmp_path / f"{name}.rest.pt", weights_only=True)
        for key, tensor in straight.adapter.tensors().items():
            assert torch.equal(found[key], tensor), (name, key)


@pytest.mark.parametrize("kind", ["KeepsAnAttribute", "DrawsOnItsOwn", "LosesBits"])
def test_what_does_not_is_found(kind: str) -> None:
    assert not exactly(f"tests.engine.forgetful.{kind}", {})


@pytest.mark.parametrize("kind", ["Remembers", "DrawsAtRandom", "KeepsLess"])
def test_what_only_looks_as_if_it_did_not(kind: str) -> None:
    assert exactly(f"tests.engine.forgetful.{kind}", {})


@pytest.mark.parametrize("kind", ["NeedsAClosure", "HidesCode"])
def test_what_cannot_train_is_refused(kind: str) -> None:
    config = OptimizerConfig(name=f"tests.engine.forgetful.{kind}")
    with pytest.raises(ConfigError) as caught:
        check_exactness(config, NO_STARTUP, adapter="lora", device=CPU, dtype=torch.float32)
    assert caught.value.code == "optimizer_unusable"


def test_the_trial_leaves_no_trace(capsys: pytest.CaptureFixture[str]) -> None:
    before, others, more = torch.random.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    exactly("tests.engine.forgetful.DrawsAtRandom", {})
    exactly("prodigy", {"weight_decay": 0.1})  # its library prints
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == (others, more)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("kind", "is_said"), [("KeepsAnAttribute", True), ("Remembers", False)])
def test_the_run_says_so_when_it_is_chosen(workshop: Workshop, kind: str, is_said: bool) -> None:
    """In its first lines, before the first step, and in the ledger, from which the report has it."""
    name = f"tests.engine.forgetful.{kind}"
    values = {("optimizer", "name"): name, ("optimizer", "options"): {"betas": [0.5, 0.9]}}
    outcome = workshop.new(1, values)
    assert outcome.exit_code == ExitCode.FINISHED
    fields = {"optimizer": name, "options": "betas=[0.5, 0.9]"}
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
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        assert continues_exactly("adamw", {}, adapter=kind, lr=1e-3, device=CPU, dtype=dtype)
