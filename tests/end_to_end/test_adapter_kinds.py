"""Every kind of adapter is trained, resumed, exported and started from, by a program that does not know it."""

from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorasmith.adapters import ADAPTERS, adapter_kind
from lorasmith.adapters.base import LayerSettings, by_layer
from lorasmith.errors import ExitCode, ModelError
from lorasmith.exporting.names import from_file
from lorasmith.session.name_tables import name_table
from tests.end_to_end.workshop import Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
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


@pytest.mark.parametrize("name", KINDS)
def test_it_trains_and_resumes_exactly_and_is_exported(name: str, make_workshop: MakeWorkshop) -> None:
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    assert straight.new(5, settings(name)).exit_code == ExitCode.FINISHED
    assert pieces.new(5, settings(name), stop_after=2).exit_code == ExitCode.STOPPED
    assert pieces.go_on(3).exit_code == ExitCode.FINISHED
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()
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


@pytest.mark.parametrize("name", KINDS)
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
