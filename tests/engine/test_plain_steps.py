"""torch's optimizers without its compiler: the same numbers, and a state that either can load."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import nn

from lorasmith.engine.plain_steps import without_compiler

STEPS_ALONE = """
import sys, torch
from lorasmith.engine.plain_steps import without_compiler
parameter = torch.nn.Parameter(torch.ones(8))
optimizer = without_compiler(torch.optim.AdamW)([parameter], fused=True)
parameter.grad = torch.ones(8)
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
optimizer.zero_grad()
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


def _trained(kind: type[torch.optim.Optimizer], steps: int) -> tuple[list[nn.Parameter], torch.optim.Optimizer]:
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((65,), (4, 5))]
    optimizer = kind([{"params": [parameter], "lr": 0.1 / n} for n, parameter in enumerate(parameters, start=1)])  # type: ignore[call-arg]
    _take(optimizer, parameters, steps, generator)
    return parameters, optimizer


def _take(
    optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: int, generator: torch.Generator
) -> None:
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.RAdam])
def test_the_same_bits_as_torchs_own(kind: type[torch.optim.Optimizer]) -> None:
    wanted, theirs = _trained(kind, 4)
    found, ours = _trained(without_compiler(kind), 4)
    assert all(torch.equal(*pair) for pair in zip(wanted, found, strict=True))
    saved = deepcopy(theirs.state_dict())
    theirs.load_state_dict(deepcopy(ours.state_dict()))
    ours.load_state_dict(saved)
    for optimizer, parameters in ((theirs, wanted), (ours, found)):
        _take(optimizer, parameters, 2, torch.Generator().manual_seed(1))
    assert all(torch.equal(*pair) for pair in zip(wanted, found, strict=True))
    assert f"{type(ours).__module__}.{type(ours).__name__}" == f"{kind.__module__}.{kind.__name__}"  # in metadata


def test_gradients_are_off_in_a_step() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    without_compiler(torch.optim.SGD)([parameter], lr=0.5).step()  # type: ignore[call-arg]
    assert parameter.is_leaf
    assert parameter.tolist() == [0.5, 0.5, 0.5]


def test_another_librarys_optimizer_stays_as_it_is() -> None:
    class Own(torch.optim.SGD):
        pass

    assert without_compiler(Own) is Own


@pytest.mark.ci
def test_no_compiler_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", STEPS_ALONE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stderr
