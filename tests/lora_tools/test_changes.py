"""Formulas of changes: those of the adapters that are trained here, and PEFT's for DoRA."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from lorasmith.adapters import ADAPTERS, adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.lora_files.modules import Module
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.changes import change, changed, norm
from lorasmith.targets import LayerSpec
from tests.lora_files.test_modules import module

LAYERS = {"linear": LayerSpec(6, 8), "1x1": LayerSpec(6, 8, (1, 1)), "3x3": LayerSpec(6, 8, (3, 3))}


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {suffix: torch.randn(shape, generator=generator) for suffix, shape in shapes.items()}


def made(tensors: dict[str, Tensor], alpha: float | None = 3.0) -> tuple[Module, dict[str, Array]]:
    shapes = {suffix: tuple(tensor.shape) for suffix, tensor in tensors.items()}
    return module(shapes, alpha), {suffix: tensor.numpy() for suffix, tensor in tensors.items()}


@pytest.mark.parametrize("kind", [name for name in ADAPTERS if name in ("lora", "loha", "lokr")])
@pytest.mark.parametrize("layer", LAYERS)
def test_the_change_is_that_of_the_adapter(kind: str, layer: str) -> None:
    spec, settings, adapter = LAYERS[layer], LayerSettings(2, 3.0), adapter_kind(kind)
    tensors = drawn(adapter.shapes(spec, settings))
    expected = adapter.delta(torch.zeros(spec.weight_shape), tensors, settings).numpy()
    found = change(*made(tensors)).reshape(spec.weight_shape)
    assert np.allclose(found, expected, atol=1e-5)
    assert norm(*made(tensors)) == pytest.approx(float(np.linalg.norm(expected)), rel=1e-5)


def test_factors_with_a_core() -> None:
    """Tucker's form: the core carries the kernel."""
    tensors = drawn({"lora_down.weight": (2, 8, 1, 1), "lora_mid.weight": (2, 2, 3, 3), "lora_up.weight": (6, 2, 1, 1)})
    down, mid, up = (tensors[f"lora_{name}.weight"] for name in ("down", "mid", "up"))
    expected = torch.einsum("or,rskl,si->oikl", up[:, :, 0, 0], mid, down[:, :, 0, 0]) * 1.5
    assert np.allclose(change(*made(tensors)), expected.numpy(), atol=1e-5)


def test_full_changes_have_no_scale() -> None:
    tensors = drawn({"diff": (6, 8)})
    assert np.array_equal(change(*made(tensors)), tensors["diff"].numpy())


@pytest.mark.parametrize("suffix", ["diff", "diff_b"])
def test_differences_of_vectors_have_a_norm(suffix: str) -> None:
    assert norm(*made({suffix: torch.tensor([3.0, 4.0])})) == 5.0


def test_kinds_that_need_the_model_have_no_norm() -> None:
    assert norm(*made(drawn({"oft_blocks": (3, 2, 2)}))) is None


def test_numbers_that_are_not_finite_have_no_finite_norm() -> None:
    tensors = drawn({"lora_down.weight": (2, 8), "lora_up.weight": (6, 2)})
    tensors["lora_up.weight"][0, 0] = float("nan")
    found = norm(*made(tensors))
    assert found is not None and math.isnan(found)


def test_dora_is_as_peft_merges_it() -> None:
    base = nn.Sequential(nn.Linear(8, 6, bias=False))
    weight = base[0].weight.detach().clone()
    model: Any = get_peft_model(base, LoraConfig(r=2, lora_alpha=3, target_modules=["0"], use_dora=True))
    layer = model.base_model.model[0]
    pair = drawn({"lora_down.weight": (2, 8), "lora_up.weight": (6, 2)})
    magnitude = drawn({"dora_scale": (6,)})["dora_scale"].abs()
    layer.lora_A["default"].weight.data = pair["lora_down.weight"]
    layer.lora_B["default"].weight.data = pair["lora_up.weight"]
    layer.lora_magnitude_vector["default"].weight.data = magnitude
    layer.merge()
    for scale in (magnitude, magnitude[:, None]):
        found = changed(*made({**pair, "dora_scale": scale}), weight.numpy(), 1.0)
        assert np.allclose(found, layer.base_layer.weight.detach().numpy(), atol=1e-5)
