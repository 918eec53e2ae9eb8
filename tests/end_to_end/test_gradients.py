"""P4's bones: the gradient of a micro-batch is a function of (seed, step, micro-batch number), whose weight is known
before anything is computed: by the number of examples in the step."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lorasmith.engine.step import _forward_backward, train_step
from lorasmith.engine.tree_sum import TreeSum
from lorasmith.session.loaded import LoadedRun
from tests.end_to_end.workshop import Workshop, load, stage

VALUES = {
    ("training", "batch_size"): 2,
    ("training", "accumulation_steps"): 3,
    ("adapter", "dropout"): 0.2,
    ("adapter", "train_text_encoder"): True,
}
STEP = 3


@pytest.fixture(scope="module")
def base_model(miniature: Path) -> Path:
    """Bytes are compared: three levels, as the real model has more than two."""
    return miniature


@pytest.fixture
def loaded(workshop: Workshop) -> LoadedRun:
    stage(workshop.start_new(4, VALUES))
    return load(workshop.run, stop_at=4)


def gradient_of(loaded: LoadedRun, micro: int) -> Tensor:
    state, context = loaded.state, loaded.context
    state.adapter.clear_gradient()
    _forward_backward(state, context, step=STEP, micro=micro, weight=1 / context.batches.examples_in(STEP))
    return state.adapter.gradient().clone()


def step_gradient(loaded: LoadedRun) -> Tensor:
    """Of a whole step, which leaves it in the buffer; without clipping, and at a rate that changes no weight."""
    loaded.state.step = STEP - 1
    groups = len(loaded.context.base_lrs)
    train_step(loaded.state, replace(loaded.context, max_grad_norm=0.0, rates_at=lambda step: [0.0] * groups))
    return loaded.state.adapter.gradient().clone()


@pytest.mark.ci
def test_another_order_of_computing(loaded: LoadedRun) -> None:
    whole = step_gradient(loaded)
    tree = TreeSum(3)
    for micro in (2, 0, 1):
        torch.randn(3)  # nothing that is drawn in between matters
        tree.add(micro, gradient_of(loaded, micro))
    assert whole.abs().max() > 0
    assert torch.equal(tree.total(), whole)


@pytest.mark.slow
def test_each_in_a_fresh_process(loaded: LoadedRun, workshop: Workshop, tmp_path: Path) -> None:
    tree = TreeSum(3)
    for micro in range(3):
        file = tmp_path / f"{micro}.safetensors"
        command = [sys.executable, "-m", "tests.end_to_end.one_gradient", str(workshop.run.root), str(micro), str(file)]
        root = Path(__file__).parents[2]
        subprocess.run(command, check=True, cwd=root, timeout=120)
        tree.add(micro, safetensors.torch.load_file(file)["gradient"])
    assert torch.equal(tree.total(), step_gradient(loaded))


def test_another_micro_batch_has_another_gradient(loaded: LoadedRun) -> None:
    assert not torch.equal(gradient_of(loaded, 0), gradient_of(loaded, 1))


def test_slices_take_their_part_of_the_draw(loaded: LoadedRun) -> None:
    """Cut in two, a micro-batch has the same noise and timesteps; the sum differs by rounding (and dropout) only."""
    adapter = loaded.state.adapter
    adapter.set_training(False)
    whole = gradient_of(loaded, 0)
    loaded.state.micro_split = 2
    halves = gradient_of(loaded, 0)
    assert torch.allclose(whole, halves, rtol=1e-3, atol=1e-6 * float(whole.abs().max()))
