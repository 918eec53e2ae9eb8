from __future__ import annotations

import pytest

from lorasmith.sd_scripts.arguments import Script
from tests.sd_scripts.translating import refusal, settings, translation

FLUX = "--network_train_unet_only --model_prediction_type raw --guidance_scale 1 "
ANIMA = "--network_train_unet_only "


def levels(line: str, script: Script = "flux_train_network") -> tuple[object, ...]:
    """Density, its mean, its deviation, the weight of its middle, and the shift; None where the family decides."""
    found = settings((FLUX if script == "flux_train_network" else ANIMA) + line, script=script)
    names = ("timestep-density", "logit-mean", "logit-std", "mode-scale", "timestep-shift")
    return tuple(found.get(name) for name in names)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ("uniform", None, None, None, 3.0)),
        ("--weighting_scheme logit_normal --logit_mean 0.5", ("logit-normal", -0.5, 1.0, None, 3.0)),
        ("--weighting_scheme mode --discrete_flow_shift 2", ("mode", None, None, 1.29, 2.0)),
        ("--timestep_sampling uniform", ("uniform", None, None, None, 1.0)),
        ("--timestep_sampling sigmoid --sigmoid_scale 2", ("logit-normal", None, 2.0, None, 1.0)),
        ("--timestep_sampling shift --discrete_flow_shift 3.1582", ("logit-normal", None, 1.0, None, 3.1582)),
        ("--timestep_sampling flux_shift", ("logit-normal", None, 1.0, None, None)),
    ],
)
def test_noise_levels_of_flux(line: str, expected: tuple[object, ...]) -> None:
    assert levels(line) == expected


def test_noise_levels_of_anima() -> None:
    assert levels("", "anima_train_network") == ("logit-normal", None, 1.0, None, 1.0)
    assert levels("--timestep_sampling shift", "anima_train_network") == ("logit-normal", None, 1.0, None, 1.0)
    weighted = settings(ANIMA + "--weighting_scheme cosmap", script="anima_train_network")
    assert weighted["flow-weighting"] == "cosmap"
    assert "flow-weighting" not in settings(FLUX + "--weighting_scheme cosmap", script="flux_train_network")
    wrong = refusal(ANIMA + "--timestep_sampling flux_shift", script="anima_train_network")
    assert wrong.code == "sd_flux_shift"


@pytest.mark.parametrize(
    ("line", "note", "arguments"),
    [
        ("--timestep_sampling sigmoid --discrete_flow_shift 2", "sd_levels_unused", ["--discrete_flow_shift"]),
        ("--timestep_sampling uniform --sigmoid_scale 2", "sd_levels_unused", ["--sigmoid_scale"]),
        ("--timestep_sampling sigmoid --weighting_scheme none", "", []),
        ("--weighting_scheme cosmap", "sd_levels_unused", ["--weighting_scheme"]),
        ("--logit_mean 1", "sd_levels_unused", ["--logit_mean"]),
        ("--min_timestep 200 --noise_offset 0.1", "sd_ignored_for_flow", ["--min_timestep", "--noise_offset"]),
        ("--max_timestep 1000 --min_timestep 0 --clip_skip 1", "", []),
        ("--clip_skip 2 --max_token_length 225", "sd_ignored_for_flow", ["--clip_skip", "--max_token_length"]),
        ("--min_snr_gamma 5", "sd_ignored_for_flow", ["--min_snr_gamma"]),
        ("--mlp_lr 1", "", []),
    ],
)
def test_what_sd_scripts_does_not_use_is_noted(line: str, note: str, arguments: list[str]) -> None:
    if line.startswith("--mlp_lr"):
        made = translation(ANIMA + line, script="anima_train_network")
        assert ("sd_unread", {"arguments": ["--mlp_lr"]}) in made.notes
        return
    notes = dict(translation(FLUX + line, script="flux_train_network").notes)
    found = {code: fields["arguments"] for code, fields in notes.items() if code.endswith(("_unused", "for_flow"))}
    assert found == ({note: arguments} if note else {})


def test_files_and_memory() -> None:
    line = FLUX + "--clip_l c --t5xxl t --ae a --blocks_to_swap 19 --fp8_base"
    found = settings(line, script="flux_train_network")
    assert (found["text-encoder"], found["vae"]) == (["c", "t"], "a")
    assert (found["base-offload"], found["base-precision"], found["base-form"]) == (0.5, "fp8", "base")
    assert settings(FLUX + "--split_mode", script="flux_train_network")["base-offload"] == 18 / 38
    line = ANIMA + "--qwen3 q --vae v --blocks_to_swap 14 --fp8_base --unsloth_offload_checkpointing"
    found = settings(line, script="anima_train_network")
    assert (found["text-encoder"], found["vae"], found["base-offload"]) == (["q"], "v", 0.5)
    assert found["gradient-checkpointing"] == "offload" and "base-precision" not in found
    assert "base-form" not in settings("")
    ignored = settings(FLUX + "--clip_skip 2 --max_token_length 225 --noise_offset 0.1", script="flux_train_network")
    assert not {"clip-skip", "max-token-length", "noise-offset"} & ignored.keys()


@pytest.mark.parametrize(
    ("line", "script", "code"),
    [
        ("", "flux_train_network", "sd_text_encoder_frozen"),
        ("--cache_text_encoder_outputs", "flux_train_network", "sd_text_encoder_frozen"),
        ("", "anima_train_network", "sd_text_encoder_frozen"),
        (FLUX + "--guidance_scale 3.5", "flux_train_network", "sd_guidance"),
        (FLUX + "--model_prediction_type sigma_scaled", "flux_train_network", "sd_prediction_type"),
        (FLUX + "--model_type chroma", "flux_train_network", "sd_model_type"),
        (FLUX + "--apply_t5_attn_mask", "flux_train_network", "sd_t5_mask"),
        (FLUX + "--t5xxl_max_token_length 256", "flux_train_network", "sd_text_length"),
        (FLUX + "--network_module networks.lora", "flux_train_network", "sd_network_module"),
        (ANIMA + "--clip_l x", "anima_train_network", "sd_other_script_taken"),
    ],
)
def test_what_is_not_done_is_refused_with_the_reason(line: str, script: Script, code: str) -> None:
    assert refusal(line, script=script).code == code


def test_defaults_that_differ_are_said() -> None:
    line = "--network_train_unet_only --t5xxl_max_token_length 512 --model_type flux"
    codes = {code for code, _ in translation(line, script="flux_train_network").notes}
    assert {"sd_default_guidance", "sd_default_prediction_type"} <= codes
    codes = {code for code, _ in translation(FLUX, script="flux_train_network").notes}
    assert not {"sd_default_guidance", "sd_default_prediction_type"} & codes


def test_cached_texts_of_anima_are_not_trained() -> None:
    """As in sd-scripts, which refuses to train them then."""
    found = settings("--cache_text_encoder_outputs --text_encoder_lr 1e-5", script="anima_train_network")
    assert found["train-text-encoder"] is False and "text-encoder-lr" not in found


# -- musubi-tuner ----------------------------------------------------------------------------------

DIT = "--dit model.safetensors "


def test_its_files_and_memory() -> None:
    line = DIT + "--text_encoder t --vae v --fp8_base --fp8_scaled --fp8_llm --blocks_to_swap 15 --compile"
    found = settings(line + " --gradient_checkpointing_cpu_offload", script="zimage_train_network")
    expected = {
        **{"base-model": "model.safetensors", "text-encoder": ["t"], "vae": "v", "base-precision": "fp8"},
        **{"text-encoder-precision": "fp8", "base-offload": 0.5, "execution": "compiled", "base-form": "base"},
        **{"gradient-checkpointing": "offload", "train-text-encoder": False},
    }
    assert {name: found.get(name) for name in expected} == expected and "caption-extension" not in found
    assert "base-form" not in settings("--dit z_image_turbo.safetensors", script="zimage_train_network")


def test_its_noise_levels() -> None:
    uniform = settings(DIT, script="krea2_train_network")
    assert (uniform["timestep-density"], uniform["timestep-shift"]) == ("uniform", 1.0)
    krea2 = settings(DIT + "--timestep_sampling krea2_shift", script="krea2_train_network")
    assert krea2["timestep-density"] == "logit-normal" and "timestep-shift" not in krea2
    weighted = settings(DIT + "--weighting_scheme sigma_sqrt", script="flux_2_train_network")
    assert weighted["flow-weighting"] == "sigma-sqrt"
    limited = "--timestep_sampling sigmoid --min_timestep 200"
    part = settings(DIT + limited + " --preserve_distribution_shape", script="krea2_train_network")
    assert part["min-timestep"] == 200
    assert refusal(DIT + limited, script="krea2_train_network").code == "sd_limits_squeeze"


@pytest.mark.parametrize(
    ("line", "script", "code"),
    [
        ("--timestep_sampling krea2_shift", "zimage_train_network", "sd_flux_shift"),
        ("--timestep_sampling flux2_shift", "flux_2_train_network", "sd_flux_shift"),
        ("--model_version dev", "flux_2_train_network", "sd_model_version"),
        ("--model_version klein-4b", "flux_2_train_network", "sd_model_version"),
        ("--num_timestep_buckets 5", "krea2_train_network", "sd_timestep_buckets"),
        ("--show_timesteps image", "krea2_train_network", "sd_show_timesteps"),
        ("--network_module lycoris.kohya", "krea2_train_network", "sd_network_module"),
        ("--train_data_dir x", "zimage_train_network", "sd_other_script_taken"),
    ],
)
def test_what_its_scripts_ask_for_and_is_not_done(line: str, script: Script, code: str) -> None:
    assert refusal(DIT + line, script=script).code == code
