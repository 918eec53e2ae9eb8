"""A kind of adapter that is a file and a row: the engine trains, resumes and exports it without knowing it."""

from collections.abc import Callable

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import by_layer
from lorasmith.errors import ExitCode, ModelError
from lorasmith.exporting.names import from_file
from lorasmith.session.name_tables import name_table
from tests.adapters import trial_kind
from tests.adapters.trial_kind import W1_A, W2_A
from tests.end_to_end.workshop import Values, Workshop

MakeWorkshop = Callable[[str], Workshop]
SETTINGS: Values = {
    ("adapter", "kind"): trial_kind.NAME,
    ("adapter", "rank"): 4,
    ("adapter", "alpha"): 2.0,
    ("adapter", "dropout"): 0.2,
    ("adapter", "train_text_encoder"): True,
    ("optimizer", "lr"): 1e-2,
    ("export", "save_precision"): "fp32",
}


@pytest.fixture(autouse=True)
def row(monkeypatch: pytest.MonkeyPatch) -> None:
    trial_kind.add_row(monkeypatch)


def test_it_trains_and_resumes_exactly_and_is_exported(make_workshop: MakeWorkshop) -> None:
    straight, pieces = make_workshop("straight"), make_workshop("pieces")
    assert straight.new(5, SETTINGS).exit_code == ExitCode.FINISHED
    assert pieces.new(5, SETTINGS, stop_after=2).exit_code == ExitCode.STOPPED
    assert pieces.go_on(3).exit_code == ExitCode.FINISHED
    assert pieces.losses() == straight.losses()
    assert pieces.digest() == straight.digest()
    kind, table = adapter_kind(trial_kind.NAME), name_table("sd15")
    trained = by_layer(straight.adapter(), kind)
    assert min(float(layer[W2_A].abs().max()) for layer in trained.values()) > 0  # every layer has learned
    # the file has been verified before it got its name: `write_export`
    stored = load_file(straight.run.export("last"))
    in_file = by_layer(from_file(stored, kind, table), kind)
    assert in_file.keys() == trained.keys() and {row.component for row in map(table.targets.get, trained)} == {
        "denoiser",
        "text_encoder",
    }
    for target, layer in trained.items():
        assert torch.equal(in_file[target][W1_A], layer[W1_A])
        assert torch.equal(in_file[target][W2_A], layer[W2_A] * 0.5)  # alpha / rank
    with safe_open(straight.run.export("last"), framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["ss_network_module"], metadata["ss_network_args"]) == ("lycoris.kohya", '{"algo": "loha"}')


def test_it_starts_from_a_file_of_its_kind_only(make_workshop: MakeWorkshop) -> None:
    first, second = make_workshop("first"), make_workshop("second")
    first.new(2, SETTINGS)
    file = str(first.run.export("last"))
    stays: Values = {**SETTINGS, ("optimizer", "lr"): 0.0, ("adapter", "init_from"): file}
    assert second.new(1, {**stays, ("adapter", "alpha"): 8.0}).exit_code == ExitCode.FINISHED
    was, now = first.adapter(), second.adapter()
    assert was.keys() == now.keys()
    assert all(torch.equal(now[key], was[key] * 0.25 if key.endswith(W2_A) else was[key]) for key in was)
    with pytest.raises(ModelError, match="init_from_other_kind"):
        make_workshop("third").new(1, {**stays, ("adapter", "kind"): "lora"})
