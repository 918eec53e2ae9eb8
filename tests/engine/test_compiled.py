"""Blocks that are compiled: in training alone, once for each shape and before step 1. What the compiler of this machine
makes of them is tested where a minute is at hand."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from lorasmith.engine.compiled import CompiledExecution, compile_in_another_folder, compute_as_before
from lorasmith.engine.device import compiler_settings
from lorasmith.engine.state import TrainState
from lorasmith.engine.step import StepContext, StepResult, numbers_at, train_step
from tests.engine.one_layer import made

STEPS = 3


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def trained(sizes: tuple[int, ...]) -> tuple[TrainState, StepContext, CompiledExecution, list[Any]]:
    from dataclasses import replace

    state, context = made(sizes=sizes)
    denoiser = context.models["denoiser"]
    assert isinstance(denoiser, nn.Sequential)
    execution = CompiledExecution(context.execution, state.adapter, context.device, [denoiser[0]])
    context = replace(context, execution=execution)
    before = execution.recorded
    for micro in range(len(sizes)):
        batch = context.batches.at(1, micro)[1]
        execution.prepare(batch, numbers_at(context, 1, micro, batch))
    assert not state.adapter.gradient().any()
    assert execution.recorded == before + len(set(sizes))
    results = [train_step(state, context) for _ in range(STEPS)]
    assert all(isinstance(one, StepResult) for one in results)
    return state, context, execution, results


@pytest.fixture
def by_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops the compiler before it makes machine code, which takes long."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *given, **named: real(*given, backend="aot_eager", **named))


def test_each_shape_is_compiled_once_and_before_the_first_step(by_tracing: None) -> None:
    state, context, execution, _ = trained((4, 2, 4))
    assert execution.recorded == counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    expected, plain = made(sizes=(4, 2, 4))
    for _ in range(STEPS):
        train_step(expected, plain)
    torch.testing.assert_close(state.adapter.flat, expected.adapter.flat)
    batch = context.batches.at(1, 0)[1].rows(0, 3)  # a shape that is not trained
    with torch.no_grad():
        context.losses(batch, numbers_at(context, 1, 0, batch))
    assert counters["stats"]["unique_graphs"] == 2


def test_undone_it_computes_as_before(by_tracing: None) -> None:
    _, context, _, _ = trained((4,))
    block = context.models["denoiser"][0]
    assert "forward" in vars(block)
    compute_as_before([block])
    assert "forward" not in vars(block)


def test_nothing_is_timed_and_no_limit_is_reached() -> None:
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    with compiler_settings():
        assert inductor.deterministic and not inductor.max_autotune
        assert dynamo.recompile_limit > 1000
    assert not inductor.deterministic


def test_another_folder_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a killed compiler left, even there, are gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "shared")
    compile_in_another_folder()
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder.parent == tmp_path
    folder.mkdir()
    (folder / "damaged.so").touch()
    compile_in_another_folder()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == folder and not folder.exists()


@pytest.mark.slow
def test_machine_code_repeats_to_the_bit() -> None:
    def weights() -> Tensor:
        torch._dynamo.reset()
        state, _, _, _ = trained((2,))
        return state.adapter.flat

    once = weights()
    assert torch.equal(weights(), once)
