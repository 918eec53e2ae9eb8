"""Optimizers by name: options against their signatures, one group a component, flat or shaped as they need."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lorasmith.adapters.flat import FlatAdapter
from lorasmith.config import optimizer_table
from lorasmith.config.optimizer_table import OPTIMIZERS
from lorasmith.engine import optimizers
from lorasmith.engine.optimizers import ELEMENTWISE, build_optimizer, check_optimizer, update
from lorasmith.errors import ConfigError, InputError
from lorasmith.targets import TargetModule
from tests.adapters.making import attached, attached_to_all

LRS = {"denoiser": 1e-2, "text_encoder": 1e-3}
HERE = ("adamw", "adafactor", "lion", "prodigy")


@pytest.fixture
def adapter() -> FlatAdapter:
    """Two layers of the denoiser, one of a text encoder, and a gradient that is 1 everywhere."""
    parent = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 24), nn.Linear(24, 8))  # nothing pads their views
    targets = [
        TargetModule("a", "denoiser", parent, "0"),
        TargetModule("b", "denoiser", parent, "1"),
        TargetModule("c", "text_encoder", parent, "2"),
    ]
    made = attached(targets)
    made.gradient().fill_(1.0)
    return made


def refused(name: str, options: dict[str, Any], adapter: FlatAdapter) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build_optimizer(name, adapter, base_lrs=LRS, options=options)
    return caught.value


@pytest.mark.parametrize("name", HERE)
def test_updates_reach_the_adapter_by_group(adapter: FlatAdapter, name: str) -> None:
    """With a rate of 0 for a group only the other moves."""
    lrs = {"denoiser": 1.0 if name == "prodigy" else 1e-2, "text_encoder": 0.0}
    built = build_optimizer(name, adapter, base_lrs=lrs, options={})
    before = adapter.flat.clone()
    for _ in range(2):
        built.step()
    moved = adapter.flat != before
    denoiser, text = adapter.groups()["denoiser"], adapter.groups()["text_encoder"]
    assert moved[denoiser].all()
    assert not moved[text].any()


@pytest.mark.parametrize("name", HERE)
def test_flat_where_all_numbers_are_treated_alike(adapter: FlatAdapter, name: str) -> None:
    built = build_optimizer(name, adapter, base_lrs=LRS, options={})
    assert [group["lr"] for group in built.param_groups] == list(LRS.values())
    shapes = [[tuple(one.shape) for one in group["params"]] for group in built.param_groups]
    if name in ELEMENTWISE:
        sizes = [part.stop - part.start for part in adapter.groups().values()]
        assert shapes == [[(size,)] for size in sizes]
    else:
        assert shapes == [[(2, 8), (16, 2), (2, 16), (24, 2)], [(2, 24), (8, 2)]]
    for group, part in zip(built.param_groups, adapter.groups().values(), strict=True):
        flat = torch.cat([one.detach().flatten() for one in group["params"]])
        assert torch.equal(flat, adapter.flat[part])
        assert all(one.grad is not None for one in group["params"])


@pytest.mark.parametrize("name", sorted(set(HERE) - ELEMENTWISE))
@pytest.mark.parametrize(
    ("kind", "linear", "convolution"),
    [
        ("lora", [(2, 8), (16, 2)], [(2, 144), (24, 2)]),
        ("loha", [(16, 2), (2, 8), (16, 2), (2, 8)], [(24, 2), (2, 144), (24, 2), (2, 144)]),
        ("lokr", [(4, 2), (4, 4)], [(4, 4), (6, 2), (2, 36)]),
        ("dora", [(2, 8), (16, 2), (1, 8)], [(2, 144), (24, 2), (1, 16)]),
    ],
)
def test_what_works_on_shapes_gets_the_matrices_of_every_kind(
    name: str, kind: str, linear: list[tuple[int, int]], convolution: list[tuple[int, int]]
) -> None:
    """Never the flat buffer, nor a convolution's four dimensions."""
    adapter = attached_to_all(nn.Sequential(nn.Linear(8, 16), nn.Conv2d(16, 24, 3)), kind=kind)
    adapter.gradient().normal_(generator=torch.Generator().manual_seed(1))
    built = build_optimizer(name, adapter, base_lrs={"denoiser": 1.0}, options={})
    [group] = built.param_groups
    assert [tuple(matrix.shape) for matrix in group["params"]] == linear + convolution
    copies = [nn.Parameter(matrix.detach().clone()) for matrix in group["params"]]
    kind_of: Any = check_optimizer(name, {})
    alone = kind_of(copies, lr=1.0)
    for copy, matrix in zip(copies, group["params"], strict=True):
        copy.grad = matrix.grad.clone()
    for optimizer in (built, alone):
        optimizer.step()
    for copy, matrix in zip(copies, adapter.parameters("denoiser"), strict=True):
        torch.testing.assert_close(matrix, copy, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_flat_and_shaped_are_the_same_mathematics(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    twin, other = (attached_to_all(nn.Sequential(nn.Linear(8, 16))) for _ in range(2))
    flat = build_optimizer(name, twin, base_lrs={"denoiser": 1e-2}, options={"weight_decay": 0.1})
    monkeypatch.setattr(optimizers, "ELEMENTWISE", frozenset())
    shaped = build_optimizer(name, other, base_lrs={"denoiser": 1e-2}, options={"weight_decay": 0.1})
    for number in range(3):
        gradient = torch.randn(twin.flat.numel(), generator=torch.Generator().manual_seed(number))
        for part, built in ((twin, flat), (other, shaped)):
            part.gradient().copy_(gradient)
            built.step()
    torch.testing.assert_close(twin.flat, other.flat, rtol=1e-6, atol=1e-7)


def test_an_unknown_name(adapter: FlatAdapter) -> None:
    error = refused("adamv", {}, adapter)
    assert error.code == "optimizer_unknown"
    assert error.fields["accepted"] == ", ".join(OPTIMIZERS)


@pytest.mark.parametrize("option", ["momentum", "lr", "params", "fused", "foreach", "self"])
def test_an_option_that_is_not_theirs_to_give(adapter: FlatAdapter, option: str) -> None:
    error = refused("adamw", {option: 1}, adapter)
    assert (error.code, error.fields["option"]) == ("optimizer_unknown_option", option)
    accepted = error.fields["accepted"].split(", ")
    assert "betas" in accepted
    assert option not in accepted


@pytest.mark.parametrize("options", [{"betas": [2.0, 0.9]}, {"eps": "small"}, {"betas": 0.9}, {"weight_decay": -1.0}])
def test_a_value_that_it_does_not_take(adapter: FlatAdapter, options: dict[str, Any]) -> None:
    assert refused("adamw", options, adapter).code == "optimizer_option_value"


def test_lists_become_tuples(adapter: FlatAdapter) -> None:
    built = build_optimizer("adamw", adapter, base_lrs=LRS, options={"betas": [0.8, 0.95], "eps": 1e-6})
    assert built.defaults["betas"] == (0.8, 0.95)
    assert built.defaults["eps"] == 1e-6


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"prodigy": replace(OPTIMIZERS["prodigy"], path="no_such_library:Prodigy")}
    monkeypatch.setattr(optimizer_table, "OPTIMIZERS", missing)
    with pytest.raises(ConfigError) as caught:
        check_optimizer("prodigy", {})
    assert (caught.value.code, caught.value.fields["package"]) == ("optimizer_not_installed", "prodigyopt")


def test_a_library_of_our_own_that_is_missing_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"adamw": replace(OPTIMIZERS["adamw"], path="no_such_library:AdamW")}
    monkeypatch.setattr(optimizer_table, "OPTIMIZERS", missing)
    with pytest.raises(InputError, match="dependency_missing"):
        check_optimizer("adamw", {})


def test_rates_by_group(adapter: FlatAdapter) -> None:
    built = build_optimizer("adamw", adapter, base_lrs=LRS, options={})
    assert update(built, [5e-3, 5e-4], seed=1) == [5e-3, 5e-4]
    assert [group["lr"] for group in built.param_groups] == [5e-3, 5e-4]


def test_adamw_can_be_gated_on_the_device(adapter: FlatAdapter) -> None:
    """What reading late rests on: with found_inf set nothing moves, not even its own count."""
    built = build_optimizer("adamw", adapter, base_lrs=LRS, options={})
    built.step()
    before, state = adapter.flat.clone(), built.state_dict()["state"]
    counted = [float(one["step"]) for one in state.values()]
    adapter.gradient().fill_(float("nan"))
    built.found_inf = torch.ones(())  # type: ignore[attr-defined]
    built.grad_scale = None  # type: ignore[attr-defined]
    built.step()
    assert torch.equal(adapter.flat, before)
    assert [float(one["step"]) for one in built.state_dict()["state"].values()] == counted
    assert all(torch.isfinite(one["exp_avg_sq"]).all() for one in built.state_dict()["state"].values())


def test_a_library_that_is_there_and_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bitsandbytes without its CUDA: to install it is no help then."""
    place = tmp_path / "site-packages" / "lsm_bits"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("raise RuntimeError('CUDA Setup failed despite GPU being available.')")
    monkeypatch.syspath_prepend(place.parent)
    broken = {"adamw8bit": replace(OPTIMIZERS["adamw8bit"], path="lsm_bits:AdamW8bit")}
    monkeypatch.setattr(optimizer_table, "OPTIMIZERS", broken)
    with pytest.raises(InputError) as caught:
        check_optimizer("adamw8bit", {})
    assert (caught.value.code, caught.value.fields["module"]) == ("library_broken", "lsm_bits")
    assert caught.value.fields["reason"] == "RuntimeError: CUDA Setup failed despite GPU being available."
