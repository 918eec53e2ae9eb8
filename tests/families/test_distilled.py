"""Models that were distilled are known by their names, and others are not taken for them."""

from pathlib import Path
from typing import Any

import pytest

from lorasmith.families.distilled import distilled_by
from lorasmith.families.weights import ModelFiles


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("sd_xl_turbo_1.0_fp16.safetensors", "Turbo"),
        ("DreamShaperXL_Turbo_v2.safetensors", "Turbo"),
        ("dreamshaperXL_lightningDPMSDE.safetensors", "Lightning"),
        ("juggernautXL_v9Rdphoto2Lightning.safetensors", "Lightning"),
        ("Hyper-SDXL-8steps.safetensors", "Hyper-SD"),
        ("model_hyperSD15.ckpt", "Hyper-SD"),
        ("LCM_Dreamshaper_v7", "LCM"),
        ("models--stabilityai--sdxl-turbo/snapshots/71153311d3dbb46851df1931d3ca6e939de83304", "Turbo"),
        ("hyperrealism_v3.safetensors", ""),
        ("turbocharged_cars.safetensors", ""),
        ("illustriousXL_v01.safetensors", ""),
        ("Lightning/plainXL.safetensors", ""),
    ],
)
def test_names(name: str, method: str) -> None:
    assert distilled_by(ModelFiles(Path("/models") / name, "single_file", "auto"), {}) == method


@pytest.mark.parametrize(
    ("facts", "scheduler", "method"),
    [
        ({"metadata": {"modelspec.title": "Some XL Lightning"}}, {}, "Lightning"),
        ({"index": {"_name_or_path": "stabilityai/sdxl-turbo"}}, {}, "Turbo"),
        ({}, {"_class_name": "LCMScheduler"}, "LCM"),
        ({}, {"_class_name": "EulerDiscreteScheduler"}, ""),
    ],
)
def test_titles_and_schedulers(facts: dict[str, Any], scheduler: dict[str, Any], method: str) -> None:
    assert distilled_by(ModelFiles(Path("/models/a"), "diffusers", "auto", **facts), scheduler) == method
