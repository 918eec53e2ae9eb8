"""Runs that train other layers than usual, or with settings of their own: exact, the same bytes when they are stopped,
watched or not, and files that start another run where they ended."""

import re
from collections.abc import Callable

import pytest
import torch

from lorasmith.config import AdapterConfig
from lorasmith.errors import ExitCode
from lorasmith.runs.events import RunStopped
from lorasmith.session.layers import chosen_layers, published_layers
from tests.end_to_end.workshop import Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
STEPS = 4
# Every two of the choices meet.
ROWS: dict[str, Values] = {
    "convolutions and ranks": {
        ("adapter", "conv_rank"): 2,
        ("adapter", "rank_dropout"): 0.3,
        ("adapter", "block_ranks"): {"mid_block": 4, "down_blocks.0": 1},
        ("training", "gradient_checkpointing"): True,
    },
    "modules in bf16": {
        ("adapter", "targets"): "full",
        ("adapter", "module_dropout"): 0.5,
        ("adapter", "rank_dropout"): 0.3,
        ("adapter", "rslora"): True,
        ("model", "precision"): "bf16",
    },
    "text encoder by blocks": {
        ("adapter", "train_text_encoder"): True,
        ("adapter", "targets"): "attn-only",
        ("adapter", "rslora"): True,
        ("adapter", "block_ranks"): {"text_encoder": 2, "input_blocks.1": 0},
        ("adapter", "module_dropout"): 0.3,
        ("optimizer", "text_encoder_lr"): [2e-3],
    },
    "loha by an expression": {
        ("adapter", "kind"): "loha",
        ("adapter", "targets"): r"resnets|to_out|self_attn",
        ("adapter", "train_text_encoder"): True,
        ("adapter", "conv_rank"): 3,
        ("adapter", "rank_dropout"): 0.3,
        ("training", "gradient_checkpointing"): True,
    },
    "dora in bf16": {
        ("adapter", "kind"): "dora",
        ("adapter", "conv_rank"): 2,
        ("adapter", "module_dropout"): 0.3,
        ("adapter", "rank_dropout"): 0.3,
        ("adapter", "rslora"): True,
        ("model", "precision"): "bf16",
    },
    "lokr by blocks": {
        ("adapter", "kind"): "lokr",
        ("adapter", "targets"): "full",
        ("adapter", "block_ranks"): {"mid_block": 2},
        ("adapter", "module_dropout"): 0.3,
        ("training", "gradient_checkpointing"): True,
    },
    "text encoder alone": {
        ("adapter", "train_text_encoder"): True,
        ("adapter", "block_ranks"): {"denoiser": 0},
        ("adapter", "rank_dropout"): 0.3,
    },
}


def settings(row: str) -> Values:
    return {("adapter", "rank"): 4, ("optimizer", "lr"): 1e-2, ("export", "save_precision"): "fp32", **ROWS[row]}


@pytest.mark.ci
@pytest.mark.parametrize("row", ROWS)
def test_it_continues_to_the_same_bytes_and_its_file_starts_a_run(row: str, make_workshop: MakeWorkshop) -> None:
    straight, pieces, second = make_workshop("straight"), make_workshop("pieces"), make_workshop("second")
    assert straight.new(STEPS, settings(row)).exit_code == ExitCode.FINISHED
    watched = {("cadence", "save_every"): 1, ("evaluation", "every"): 2, ("evaluation", "examples"): 1}
    assert pieces.new(STEPS, {**settings(row), **watched}, stop_after=2).exit_code == ExitCode.STOPPED
    assert pieces.go_on(2).exit_code == ExitCode.FINISHED
    assert straight.optimizer_steps() == {STEPS}
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()

    again = {**settings(row), ("adapter", "init_from"): str(straight.run.export("last")), ("optimizer", "lr"): 0.0}
    again[("optimizer", "text_encoder_lr")] = None
    assert second.new(1, again).exit_code == ExitCode.FINISHED
    was, now = straight.adapter(), second.adapter()
    assert was.keys() == now.keys()
    for name, tensor in was.items():
        torch.testing.assert_close(now[name], tensor)
    published = published_layers("sd15", with_text_encoders=True)
    config = AdapterConfig(**{name: value for (section, name), value in settings(row).items() if section == "adapter"})
    chosen = chosen_layers(config, "sd15", published)
    layers = {re.split(r"\.(?:lora|hada|lokr|dora)_", name)[0] for name in was}
    assert layers <= chosen.keys() and len({chosen[layer] for layer in layers}) == len(set(chosen.values()))


def test_a_file_with_layers_that_this_run_does_not_train(make_workshop: MakeWorkshop) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    first.new(1, settings("convolutions and ranks"))
    start: Values = {("adapter", "init_from"): str(first.run.export("last")), ("adapter", "rank"): 4}
    stopped = second.new(1, {**start, ("adapter", "conv_rank"): 1}).of(RunStopped)[-1]
    assert (stopped.code, stopped.exit_code) == ("init_from_rank", ExitCode.BAD_INPUT)
    stopped = second.new(1, start).of(RunStopped)[-1]
    assert (stopped.code, stopped.exit_code) == ("init_from_not_trained", ExitCode.BAD_INPUT)
    assert second.new(1, {**start, ("adapter", "conv_rank"): 3}).exit_code == ExitCode.FINISHED
