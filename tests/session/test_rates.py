"""Learning rates by group: components, blocks and the sides of pairs; and as sd-scripts writes them."""

import pytest

from lorasmith.config import AdapterConfig, OptimizerConfig
from lorasmith.errors import ConfigError
from lorasmith.session.layers import published_layers
from lorasmith.session.rates import base_lrs, check_rates_of_blocks, components_of, group_of, lr_network_args

TARGETS = [
    "denoiser.down_blocks.0.attentions.0.proj_in",
    "denoiser.down_blocks.1.attentions.0.proj_in",
    "text_encoder.encoder.layers.0.mlp.fc1",
]


def groups_of(config: OptimizerConfig) -> list[str]:
    group = group_of(config, TARGETS)
    return list(dict.fromkeys(group(target, suffix) for target in TARGETS for suffix in ("lora_down", "lora_up")))


def test_a_group_for_each_component() -> None:
    config = OptimizerConfig(lr=1e-3, text_encoder_lr=(5e-4,))
    assert groups_of(config) == ["denoiser", "text_encoder"]
    assert base_lrs(config, groups_of(config), ["text_encoder"]) == {"denoiser": 1e-3, "text_encoder": 5e-4}


def test_the_smallest_block_counts() -> None:
    config = OptimizerConfig(lr=1.0, block_lrs={"denoiser": 0.5, "down_blocks.1": 0.25})
    assert base_lrs(config, groups_of(config), ["text_encoder"]) == {
        "denoiser@denoiser": 0.5,
        "denoiser@down_blocks.1": 0.25,
        "text_encoder": 1.0,
    }
    assert components_of(groups_of(config)) == ["denoiser", "text_encoder"]


def test_lora_plus() -> None:
    """Each component's own ratio before that of all."""
    config = OptimizerConfig(lr=1.0, block_lrs={"down_blocks.1": 0.5}, loraplus_lr_ratio=4.0, loraplus_unet_lr_ratio=16)
    assert base_lrs(config, groups_of(config), ["text_encoder"]) == {
        "denoiser": 1.0,
        "denoiser+lora_up": 16.0,
        "denoiser@down_blocks.1": 0.5,
        "denoiser@down_blocks.1+lora_up": 8.0,
        "text_encoder": 1.0,
        "text_encoder+lora_up": 4.0,
    }


def test_a_ratio_of_the_text_encoder_alone() -> None:
    config = OptimizerConfig(lr=1.0, loraplus_text_encoder_lr_ratio=2.0)
    assert groups_of(config) == ["denoiser", "text_encoder", "text_encoder+lora_up"]


@pytest.mark.parametrize(
    ("block", "code"),
    [("down_blocks.9", "block_unknown"), ("text_encoder", "block_lr_unused"), ("out", "block_unknown")],
)
def test_a_block_that_is_not_trained(block: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_rates_of_blocks(OptimizerConfig(block_lrs={block: 0.5}), AdapterConfig(), "sd15")
    assert caught.value.code == code
    check_rates_of_blocks(OptimizerConfig(block_lrs={"input_blocks.4": 0.5}), AdapterConfig(), "sd15")


def test_as_sd_scripts_writes_them() -> None:
    """Twelve blocks down, one in the middle, twelve up; 0 where nothing is trained."""
    published = published_layers("sd15", with_text_encoders=True)
    trained = [name for name in published if ".attentions." in name and name.startswith("denoiser.")]
    config = OptimizerConfig(block_lrs={"input_blocks.4": 0.5, "output_blocks": 2.0}, loraplus_lr_ratio=16.0)
    assert lr_network_args(config, published, trained) == {
        "block_lr": "input_blocks.4=0.5,output_blocks=2.0",
        "down_lr_weight": "0.0,1.0,1.0,0.0,0.5,1.0,0.0,1.0,1.0,0.0,0.0,0.0",
        "mid_lr_weight": "1.0",
        "up_lr_weight": "0.0,0.0,0.0,2.0,2.0,2.0,2.0,2.0,2.0,2.0,2.0,2.0",
        "loraplus_lr_ratio": "16.0",
    }
    assert lr_network_args(OptimizerConfig(), published, trained) == {}


def test_sdxl_has_nine_blocks_three_and_nine() -> None:
    published = published_layers("sdxl", with_text_encoders=True)
    trained = [name for name in published if ".attentions." in name and name.startswith("denoiser.")]
    args = lr_network_args(OptimizerConfig(block_lrs={"middle_block": 0.5}), published, trained)
    assert [len(args[f"{name}_lr_weight"].split(",")) for name in ("down", "mid", "up")] == [9, 3, 9]
    assert args["mid_lr_weight"] == "0.0,0.5,0.0"
