"""Every kind of adapter is trained, resumed, exported and started from, by a program that does not know it."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorasmith.adapters import ADAPTERS, adapter_kind
from lorasmith.adapters.base import LayerSettings, by_layer
from lorasmith.errors import ExitCode, ModelError
from lorasmith.evaluation import evaluator
from lorasmith.exporting.names import from_file
from lorasmith.runs.events import RunStopped
from lorasmith.session.name_tables import name_table
from tests.end_to_end.workshop import Values, Workshop
from tests.evaluation.few_steps import sample_in

MakeWorkshop = Callable[[str], Workshop]
PRECISIONS = ("fp32", "bf16")
KINDS = [name for name in ADAPTERS if name != "lora"]  # which all other tests train


def settings(kind: str) -> Values:
    return {
        ("adapter", "kind"): kind,
        ("adapter", "rank"): 4,
        ("adapter", "alpha"): 2.0,
        ("adapter", "dropout"): 0.2,
        ("adapter", "train_text_encoder"): True,
        ("optimizer", "lr"): 1e-2,
        ("export", "save_precision"): "fp32",
    }


def rows() -> Iterator[Any]:
    """Pairwise: every kind with every precision, with the text encoder trained or not, which every precision is too."""
    for number, (name, precision) in enumerate(product(KINDS, PRECISIONS)):
        with_text = number % 2 == number // len(PRECISIONS) % 2
        values = {
            **settings(name),
            ("adapter", "train_text_encoder"): with_text,
            ("adapter", "conv_rank"): 2,
            ("adapter", "lokr_decompose_both"): name == "lokr",
            ("model", "precision"): precision,
        }
        yield pytest.param(values, id=f"{name}-{precision}-{'text' if with_text else 'unet'}")


@pytest.mark.ci
@pytest.mark.parametrize("values", list(rows()))
def test_stopped_and_watched_it_ends_with_the_same_bytes(
    values: Values, make_workshop: MakeWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P2 and P3: one run is stopped twice, saved, exported and evaluated after every step; the other is left alone."""
    monkeypatch.setattr(evaluator, "MAX_SHARE", 1.0)
    sample_in(monkeypatch, 2)
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    apart: Values = {**values, ("dataset", "hold_out"): 1}
    assert straight.new(5, apart).exit_code == ExitCode.FINISHED
    watched: Values = {**apart, ("evaluation", "every"): 1, ("evaluation", "examples"): 1, ("cadence", "save_every"): 1}
    assert pieces.new(5, watched, stop_after=2).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None, stop_after=3).exit_code == ExitCode.STOPPED
    assert pieces.go_on(None).exit_code == ExitCode.FINISHED
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()


@pytest.mark.parametrize("name", KINDS)
def test_every_layer_learns_and_is_in_the_file(name: str, make_workshop: MakeWorkshop) -> None:
    straight = make_workshop("straight")
    assert straight.new(3, settings(name)).exit_code == ExitCode.FINISHED
    kind, table = adapter_kind(name), name_table("sd15")
    trained = by_layer(straight.adapter(), kind)
    # the file has been verified before it got its name: `write_export`
    stored = load_file(straight.run.export("last"))
    in_file = by_layer(from_file(stored, kind, table), kind)
    assert in_file.keys() == trained.keys() and {row.component for row in map(table.targets.get, trained)} == {
        "denoiser",
        "text_encoder",
    }
    for target, layer in trained.items():
        shapes = {suffix: tuple(tensor.shape) for suffix, tensor in layer.items()}
        spec, _ = kind.layer_of(shapes, table.targets[target].layer.kernel)
        weight = torch.ones(spec.weight_shape)
        delta = kind.delta(weight, layer, LayerSettings(4, 2.0))
        assert delta.any()  # every layer has learned
        torch.testing.assert_close(kind.delta(weight, in_file[target], LayerSettings(4, 4.0)), delta)
    with safe_open(straight.run.export("last"), framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == kind.network_module


@pytest.mark.parametrize("name", [pytest.param(one, marks=[] if one == "dora" else [pytest.mark.ci]) for one in KINDS])
def test_it_starts_from_a_file_of_its_kind_only(name: str, make_workshop: MakeWorkshop) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    first.new(2, settings(name))
    file = str(first.run.export("last"))
    stays: Values = {**settings(name), ("optimizer", "lr"): 0.0, ("adapter", "init_from"): file}
    assert second.new(1, {**stays, ("adapter", "alpha"): 8.0}).exit_code == ExitCode.FINISHED
    kind = adapter_kind(name)
    was, now = by_layer(first.adapter(), kind), by_layer(second.adapter(), kind)
    assert was.keys() == now.keys()
    for target, layer in was.items():
        spec, _ = kind.layer_of({suffix: tuple(tensor.shape) for suffix, tensor in layer.items()}, ())
        weight = torch.ones(spec.weight_shape)
        torch.testing.assert_close(
            kind.delta(weight, now[target], LayerSettings(4, 8.0)), kind.delta(weight, layer, LayerSettings(4, 2.0))
        )
    with pytest.raises(ModelError, match="init_from_other_kind"):
        make_workshop("third").new(1, {**stays, ("adapter", "kind"): "lora"})


def test_a_lokr_of_other_matrices_is_refused_as_such(make_workshop: MakeWorkshop) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    first.new(1, settings("lokr"))
    other: Values = {**settings("lokr"), ("adapter", "init_from"): str(first.run.export("last"))}
    outcome = second.new(1, {**other, ("adapter", "lokr_factor"): 2})
    assert outcome.exit_code == ModelError.exit_code
    assert outcome.of(RunStopped)[-1].code == "init_from_other_matrices"
