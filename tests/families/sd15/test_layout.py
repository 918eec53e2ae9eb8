"""Where Stable Diffusion 1.x keeps its components."""

import pytest

from lorasmith.families.sd15.layout import NAMES, from_diffusers, from_ldm, usual_config


def test_each_component_is_found_by_the_beginning_of_its_names() -> None:
    stored = {
        "unet": "model.diffusion_model.time_embed.0.bias",
        "vae": "first_stage_model.encoder.norm_out.bias",
        "text_encoder": "cond_stage_model.transformer.final_layer_norm.bias",
    }
    ours = {
        "unet": "time_embedding.linear_1.bias",
        "vae": "encoder.conv_norm_out.bias",
        "text_encoder": "text_model.final_layer_norm.bias",
    }
    for component in NAMES.components:
        assert from_ldm(component, stored.values()) == {ours[component]: stored[component]}
        assert from_diffusers(component, [ours[component]]) == {ours[component]: ours[component]}


def test_what_no_layer_holds_is_left_out() -> None:
    names = ["model_ema.diffusion_modelinput_blocks00weight", "model_ema.decay", "alphas_cumprod", "v_pred"]
    names += ["first_stage_model.loss.logvar", "cond_stage_model.transformer.text_projection.weight"]
    for component in NAMES.components:
        assert from_ldm(component, names) == {}


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "scheduler"])
def test_a_config_is_a_copy_of_its_own(component: str) -> None:
    usual_config(component)["changed"] = True
    assert "changed" not in usual_config(component)
