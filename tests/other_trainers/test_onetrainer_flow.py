"""The keys are those of OneTrainer's presets for FLUX.1, Krea 2 and Z-Image."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lorasmith.other_trainers.imported import Imported
from lorasmith.other_trainers.onetrainer import from_onetrainer
from lorasmith.session.layers import published_layers

FLUX: dict[str, Any] = {
    "base_model_name": "black-forest-labs/FLUX.1-dev",
    "learning_rate": 0.0003,
    "model_type": "FLUX_DEV_1",
    "resolution": "768",
    "transformer": {"train": True, "weight_dtype": "NFLOAT_4"},
    "text_encoder": {"train": False, "weight_dtype": "BFLOAT_16"},
    "text_encoder_2": {"train": False, "weight_dtype": "NFLOAT_4"},
    "training_method": "LORA",
    "vae": {"weight_dtype": "FLOAT_32"},
    "train_dtype": "BFLOAT_16",
    "timestep_distribution": "LOGIT_NORMAL",
    "dynamic_timestep_shifting": True,
}
Z_IMAGE = {
    **FLUX,
    "base_model_name": "Tongyi-MAI/Z-Image",
    "model_type": "Z_IMAGE",
    "transformer": {"train": True, "weight_dtype": "FLOAT_8", "offload_fraction": 0.6},
    "text_encoder": {"train": False, "weight_dtype": "FLOAT_8"},
    "text_encoder_2": {},
    "layer_filter": "^(?=.*attention)(?!.*refiner).*,^(?=.*feed_forward)(?!.*refiner).*",
    "layer_filter_preset": "attn-mlp",
    "layer_filter_regex": True,
    "dynamic_timestep_shifting": False,
}


def imported(table: dict[str, Any], **changes: Any) -> Imported:
    return from_onetrainer({**table, **changes}, lambda name: None).checked()


def test_presets() -> None:
    flux = imported(FLUX)
    assert flux.values == {
        **{"base_model": "black-forest-labs/FLUX.1-dev", "lr": 3e-4, "resolution": 768, "precision": "bf16"},
        **{"alpha": 1.0, "targets": "full", "base_precision": "nf4", "text_encoder_precision": "nf4"},
        **{"gradient_checkpointing": True, "timestep_density": "logit-normal"},
    }
    z_image = imported(Z_IMAGE)
    assert {name: z_image.values[name] for name in ("base_precision", "base_offload", "timestep_shift")} == {
        **{"base_precision": "fp8", "base_offload": 0.6, "timestep_shift": 1.0}
    }
    assert [left.name for left in (*flux.left_out, *z_image.left_out)] == ["concept_file_name"] * 2


@pytest.mark.parametrize(
    ("family", "table", "count"),
    [
        ("zimage", Z_IMAGE, 210),
        ("krea2", {**FLUX, "model_type": "KREA_2", "layer_filter": "attn,ff"}, (28 + 4) * 8),
        ("flux1", {**FLUX, "layer_filter": "attn,ff.net", "layer_filter_preset": "attn-mlp"}, 19 * 10 + 38 * 3),
        ("flux2_klein", {**FLUX, "model_type": "FLUX_2", "layer_filter": "transformer_block"}, 112),
    ],
)
def test_layers_are_those_whose_names_fit(family: str, table: dict[str, Any], count: int) -> None:
    pattern = re.compile(imported(table).values["targets"])
    assert sum(bool(pattern.search(layer)) for layer in published_layers(family, with_text_encoders=False)) == count


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"timestep_distribution": "UNIFORM"}, {"timestep_density": "uniform"}),
        ({"noising_weight": 0.5, "noising_bias": -0.2}, {"logit_std": 1.5, "logit_mean": -0.2}),
        (
            {"timestep_distribution": "HEAVY_TAIL", "noising_weight": 0.8},
            {"timestep_density": "mode", "mode_scale": 0.8},
        ),
        ({"dynamic_timestep_shifting": False, "timestep_shift": 3.0}, {"timestep_shift": 3.0}),
        (
            {"timestep_distribution": "UNIFORM", "dynamic_timestep_shifting": False, "max_noising_strength": 0.5},
            {"max_timestep": 500},
        ),
        ({"text_encoder_2": {"model_name": "t5.safetensors"}}, {"text_encoder": ["t5.safetensors"]}),
        ({"transformer": {"activation_offloading": True}}, {"gradient_checkpointing": "offload"}),
    ],
)
def test_what_is_carried_over(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    values = imported(FLUX, **changes).values
    assert {name: values.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"timestep_distribution": "BETA"}, "timestep_distribution"),
        ({"model_type": "Z_IMAGE"}, "dynamic_timestep_shifting"),
        ({"max_noising_strength": 0.5}, "max_noising_strength"),
        ({"loss_weight_fn": "MIN_SNR_GAMMA"}, "loss_weight_fn"),
        ({"loss_weight_fn": "SIGMA"}, "loss_weight_fn"),
        ({"transformer": {"guidance_scale": 3.5}}, "transformer.guidance_scale"),
        ({"transformer": {"attention_mask": True}}, "transformer.attention_mask"),
        ({"transformer": {"weight_dtype": "GGUF"}}, "transformer.weight_dtype"),
        ({"transformer": {"model_name": "de_turbo.safetensors"}}, "transformer.model_name"),
        ({"text_encoder": {"train": True}}, "text_encoder.train"),
    ],
)
def test_what_is_left_out_is_named(changes: dict[str, Any], left: str) -> None:
    found = imported(FLUX, **changes)
    assert left in [setting.name for setting in found.left_out]
    assert not {"min_snr_gamma", "max_timestep"} & found.values.keys()
