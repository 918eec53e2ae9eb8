"""The keys are those of ai-toolkit's examples for FLUX.1, and of its models of flow matching."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lorasmith.other_trainers.ai_toolkit import from_ai_toolkit
from lorasmith.other_trainers.imported import Imported
from lorasmith.session.layers import published_layers

MODEL: dict[str, Any] = {"name_or_path": "black-forest-labs/FLUX.1-dev", "is_flux": True, "quantize": True}
TRAIN: dict[str, Any] = {"steps": 2000, "lr": 1e-4, "noise_scheduler": "flowmatch", "train_text_encoder": False}


def imported(model: dict[str, Any] | None = None, **train: Any) -> Imported:
    process = {
        "type": "sd_trainer",
        "network": {"type": "lora", "linear": 16, "linear_alpha": 16},
        "train": {**TRAIN, **train},
        "model": MODEL if model is None else model,
    }
    return from_ai_toolkit({"config": {"name": "cat", "process": [process]}}).checked()


def arch(name: str, **more: Any) -> dict[str, Any]:
    return {"name_or_path": "model", "arch": name, **more}


def test_the_example_for_flux() -> None:
    found = imported()
    assert found.values == {
        **{"base_model": "black-forest-labs/FLUX.1-dev", "name": "cat", "steps": 2000, "alpha": 16.0},
        **{"base_precision": "fp8", "text_encoder_precision": "fp8", "timestep_density": "logit-normal"},
        **{"timestep_shift": 1.0, "targets": r"^denoiser\.(single_)?transformer_blocks\."},
    }
    assert found.left_out == []


@pytest.mark.parametrize(
    ("name", "family", "count"),
    [
        ("flux", "flux1", 494),
        ("flux2_klein_9b", "flux2_klein", 112),
        ("zimage:turbo", "zimage", 240),
        ("krea2", "krea2", (28 + 4) * 8),
        ("anima", "anima", 28 * 16),
    ],
)
def test_layers_are_those_of_the_blocks(name: str, family: str, count: int) -> None:
    pattern = re.compile(imported(arch(name)).values["targets"])
    layers = published_layers(
        family, with_text_encoders=False, depths={"denoiser.transformer_blocks": 28} if family == "anima" else {}
    )
    assert sum(bool(pattern.search(layer)) for layer in layers) == count


@pytest.mark.parametrize(
    ("model", "train", "expected"),
    [
        (arch("zimage", assistant_lora_path="a.safetensors"), {}, {"training_adapter": "a.safetensors"}),
        (arch("zimage"), {"timestep_type": "shift"}, {"timestep_density": "uniform", "timestep_shift": 3.0}),
        (arch("krea2"), {"timestep_type": "shift"}, {"timestep_density": "uniform", "timestep_shift": None}),
        (arch("anima"), {"timestep_type": "linear"}, {"timestep_density": "uniform", "timestep_shift": 1.0}),
        (arch("flux", te_name_or_path="t5"), {}, {"text_encoder": ["t5"]}),
        (arch("flux", layer_offloading=True, layer_offloading_transformer_percent=0.5), {}, {"base_offload": 0.5}),
        (arch("flux", quantize=True, qtype="qint8", quantize_te=False), {}, {"base_precision": "int8"}),
    ],
)
def test_what_is_carried_over(model: dict[str, Any], train: dict[str, Any], expected: dict[str, Any]) -> None:
    values = imported(model, **train).values
    assert {name: values.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("model", "train", "left"),
    [
        (arch("flux"), {"timestep_type": "weighted"}, "train.timestep_type"),
        (arch("flux2_klein_4b"), {"timestep_type": "shift"}, "train.timestep_type"),
        (arch("flux"), {"linear_timesteps": True}, "train.linear_timesteps"),
        (arch("flux"), {"min_denoising_steps": 100}, "train.min_denoising_steps"),
        (arch("flux"), {"min_snr_gamma": 5.0}, "train.min_snr_gamma"),
        (arch("flux"), {"train_text_encoder": True}, "train.train_text_encoder"),
        (arch("flux", quantize=True, qtype="uint3|x"), {}, "model.qtype"),
        (arch("flux", extras_name_or_path="other"), {}, "model.extras_name_or_path"),
    ],
)
def test_what_is_left_out_is_named(model: dict[str, Any], train: dict[str, Any], left: str) -> None:
    assert [setting.name for setting in imported(model, **train).left_out] == [left]


def test_limits_that_limit_nothing_are_not_named() -> None:
    assert imported(min_denoising_steps=0, max_denoising_steps=1000).left_out == []
