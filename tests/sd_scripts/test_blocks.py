from __future__ import annotations

import pytest

from lorasmith.config import AdapterConfig
from lorasmith.errors import ConfigError
from lorasmith.runtime.settings import check_layers
from lorasmith.sd_scripts.blocks import block_ranks, block_rates
from tests.sd_scripts.translating import settings, translation

PLAIN, WITH_CONVOLUTIONS = AdapterConfig(), AdapterConfig(conv_rank=4)
NUMBERS = {count: ",".join(map(str, range(1, count + 1))) for count in (25, 23)}


def test_ranks_are_those_of_blocks_that_have_layers() -> None:
    found = block_ranks(NUMBERS[25], PLAIN)
    assert (found["input_blocks.1"], found["middle_block"], found["output_blocks.11"]) == (2, 13, 25)
    assert not {"input_blocks.0", "input_blocks.3", "output_blocks.0"} & set(found)  # no attention there
    assert "output_blocks.0" in block_ranks(NUMBERS[25], WITH_CONVOLUTIONS)
    found = block_ranks(NUMBERS[23], PLAIN)
    assert (found["input_blocks.4"], found["middle_block.1"], found["output_blocks.0"]) == (6, 12, 14)


def test_rates_are_filled_up_with_one_and_small_rates_leave_a_block_out() -> None:
    found = block_rates({"down_lr_weight": "0.5,.5,0.1", "block_lr_zero_threshold": "0.2"}, PLAIN, is_sdxl=False)
    assert found == {"input_blocks.1": 0.5, "input_blocks.2": 0.0}
    found = block_rates({"mid_lr_weight": "1,0.5,1"}, PLAIN, is_sdxl=True)
    assert found == {"middle_block.1": 0.5}


def test_curves_are_those_of_sd_scripts() -> None:
    """Numbers of its own function for 12 blocks: `sine+.5` and `reverse_linear`."""
    sine = block_rates({"up_lr_weight": "sine+.5"}, PLAIN, is_sdxl=False)
    assert sine["output_blocks.3"] == pytest.approx(0.9154150130018864)
    assert sine["output_blocks.11"] == pytest.approx(1.5)
    falling = block_rates({"down_lr_weight": "reverse_linear"}, PLAIN, is_sdxl=False)
    assert falling["input_blocks.1"] == pytest.approx(10 / 11)


def test_a_block_without_a_rate_is_left_out() -> None:
    found = settings("--network_args down_lr_weight=0,0,0.5")
    assert found["block-rank"] == {"input_blocks.1": 0}
    assert found["block-lr"] == {"input_blocks.2": 0.5}


def test_what_comes_out_fits_the_published_model() -> None:
    from lorasmith.config import RunConfig

    for line in (f"block_dims={NUMBERS[25]} conv_dim=4", "down_lr_weight=sine mid_lr_weight=.5 up_lr_weight=cosine+.1"):
        values = translation(f"--network_args {line}").values
        config = RunConfig().with_values({at: value for at, value in values.items() if at[0] != "request"})
        check_layers(config, "sd15")


@pytest.mark.parametrize("text", ["1,2,3,4,5,6,7,8,9,10,11,12,13", "wave"])
def test_other_weights_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="sd_block_weights"):
        block_rates({"down_lr_weight": text}, PLAIN, is_sdxl=False)
    with pytest.raises(ConfigError, match="sd_block_dims"):
        block_ranks("1,2", PLAIN)
