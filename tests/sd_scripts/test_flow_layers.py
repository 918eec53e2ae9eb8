from __future__ import annotations

import re

import pytest

from lorasmith.session.layers import published_layers
from tests.sd_scripts.translating import refusal, settings, translation

LINE = "--network_train_unet_only --model_prediction_type raw --guidance_scale 1 "


def chosen(pairs: str, module: str = "networks.lora_flux") -> list[str]:
    """The layers of FLUX.1 that a command line trains."""
    line = f"{LINE}--network_module {module} --network_args {pairs}"
    pattern = re.compile(settings(line, script="flux_train_network")["targets"])
    return sorted({layer for layer in published_layers("flux1", with_text_encoders=False) if pattern.search(layer)})


def test_the_layers_are_those_of_sd_scripts() -> None:
    """Their 304 modules have queries, keys, values and in blocks of one stream the MLP in one: 19 * 4 + 38 * 3 more."""
    layers = chosen("split_qkv=True")
    assert len(layers) == 304 + 19 * 4 + 38 * 3
    assert all("blocks." in layer for layer in layers)
    assert chosen("preset=attn-mlp algo=lora", "lycoris.kohya") == layers
    attention = chosen("preset=attn-only algo=lora", "lycoris.kohya")
    assert len(attention) == 19 * 8 and not any("single" in layer for layer in attention)


@pytest.mark.parametrize(
    ("pairs", "double", "single"),
    [
        ("train_blocks=double", set(range(19)), set()),
        ("train_blocks=single", set(), set(range(38))),
        ("train_double_block_indices=0-2,5 train_single_block_indices=none", {0, 1, 2, 5}, set()),
        ("train_single_block_indices=1", set(range(19)), {1}),
    ],
)
def test_blocks_are_chosen_by_number(pairs: str, double: set[int], single: set[int]) -> None:
    found = [re.match(r"denoiser\.(single_)?transformer_blocks\.(\d+)\.", layer) for layer in chosen(pairs)]
    numbers = {(part[1] or "", int(part[2])) for part in found if part}
    assert numbers == {("", number) for number in double} | {("single_", number) for number in single}


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        ("train_blocks=triple", "sd_train_blocks"),
        ("train_double_block_indices=19", "sd_block_indices"),
        ("train_single_block_indices=3-1", "sd_block_indices"),
        ("train_blocks=single train_single_block_indices=none", "sd_no_blocks"),
        ("train_t5xxl=True", "sd_network_arg_refused"),
        ("img_attn_dim=4", "sd_network_arg_refused"),
        ("conv_dim=4", "sd_network_arg_refused"),
        ("block_dims=1", "sd_network_arg_unknown"),
    ],
)
def test_pairs_without_a_counterpart_are_refused(pairs: str, code: str) -> None:
    line = f"{LINE}--network_module networks.lora_flux --network_args {pairs}"
    assert refusal(line, script="flux_train_network").code == code


def test_layers_of_their_own_are_noted_once_unless_asked_for() -> None:
    codes = [code for code, _ in translation(LINE, script="flux_train_network").notes]
    assert codes.count("sd_split_qkv") == 1
    split = translation(LINE + "--network_args split_qkv=True", script="flux_train_network")
    assert "sd_split_qkv" not in [code for code, _ in split.notes]


def test_anima_has_the_layers_that_are_trained_anyway() -> None:
    line = "--network_train_unet_only --network_module networks.lora_anima --network_args rank_dropout=0.1"
    found = settings(line, script="anima_train_network")
    assert "targets" not in found and found["rank-dropout"] == 0.1
    assert refusal(line + " exclude_patterns=x", script="anima_train_network").code == "sd_network_arg_refused"
    wrong = "--network_train_unet_only --network_module lycoris.kohya"
    assert refusal(wrong, script="anima_train_network").code == "sd_network_module"
