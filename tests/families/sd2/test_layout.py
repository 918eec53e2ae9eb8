"""Where Stable Diffusion 2.x keeps its components."""

import pytest

from lorasmith.families.sd2.layout import NAMES, from_diffusers, from_ldm, usual_config

TEXT = "cond_stage_model.model."


def test_each_component_is_found_by_the_beginning_of_its_names() -> None:
    stored = {
        "unet": "model.diffusion_model.out.2.bias",
        "vae": "first_stage_model.encoder.norm_out.bias",
        "text_encoder": f"{TEXT}ln_final.bias",
    }
    ours = {
        "unet": "conv_out.bias",
        "vae": "encoder.conv_norm_out.bias",
        "text_encoder": "text_model.final_layer_norm.bias",
    }
    for component in NAMES.components:
        found = from_ldm(component, stored.values())
        assert {name: place.name for name, place in found.items()} == {ours[component]: stored[component]}
        assert from_diffusers(component, [ours[component]]) == {ours[component]: ours[component]}


def test_what_the_unet_was_not_trained_with_is_left_out() -> None:
    """The 24th layer of OpenCLIP's text encoder, and its projection."""
    stored = [f"{TEXT}transformer.resblocks.{layer}.ln_1.bias" for layer in (22, 23)]
    stored += [f"{TEXT}text_projection", f"{TEXT}logit_scale"]
    assert list(from_ldm("text_encoder", stored)) == ["text_model.encoder.layers.22.layer_norm1.bias"]


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "scheduler"])
def test_a_config_is_a_copy_of_its_own(component: str) -> None:
    usual_config(component)["changed"] = True
    assert "changed" not in usual_config(component)
