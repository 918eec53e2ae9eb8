"""Where Stable Diffusion XL keeps its components."""

import pytest

from lorasmith.families.sdxl.layout import NAMES, from_diffusers, from_sgm, usual_config


def test_each_component_is_found_by_the_beginning_of_its_names() -> None:
    stored = {
        "unet": "model.diffusion_model.label_emb.0.2.bias",
        "vae": "first_stage_model.encoder.norm_out.bias",
        "text_encoder": "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
        "text_encoder_2": "conditioner.embedders.1.model.text_projection",
    }
    ours = {
        "unet": "add_embedding.linear_2.bias",
        "vae": "encoder.conv_norm_out.bias",
        "text_encoder": "text_model.final_layer_norm.bias",
        "text_encoder_2": "text_projection.weight",
    }
    for component in NAMES.components:
        found = from_sgm(component, stored.values())
        assert {name: place.name for name, place in found.items()} == {ours[component]: stored[component]}
        assert from_diffusers(component, [ours[component]]) == {ours[component]: ours[component]}


def test_the_projection_belongs_to_the_second_text_encoder_alone() -> None:
    assert from_diffusers("text_encoder", ["text_projection.weight"]) == {}
    assert from_sgm("text_encoder", ["conditioner.embedders.0.transformer.text_projection.weight"]) == {}


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "text_encoder_2", "scheduler"])
def test_a_config_is_a_copy_of_its_own(component: str) -> None:
    usual_config(component)["changed"] = True
    assert "changed" not in usual_config(component)
