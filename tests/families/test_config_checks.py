"""(More settings that are refused: tests/abuse/test_models.py.)"""

from typing import Any

import pytest

from lorasmith.families.config_checks import wrong_setting
from lorasmith.families.sd15.layout import usual_config

NAMES = ("unet", "vae", "text_encoder", "scheduler")


def configs(component: str = "", **changes: Any) -> dict[str, Any]:
    found = {name: usual_config(name) for name in NAMES}
    if component:
        found[component] |= changes
    return found


def test_those_of_stable_diffusion_are_right() -> None:
    assert wrong_setting(configs()) == ""


def test_what_is_left_out_has_a_default() -> None:
    widths = {"block_out_channels": [32, 64]}
    assert wrong_setting({"unet": widths, "vae": widths, "text_encoder": {}, "scheduler": {}}) == ""


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", None, True, [8], 10**12, float("nan")])
def test_a_count_is_a_whole_number_that_can_be(value: Any) -> None:
    assert wrong_setting(configs("text_encoder", num_hidden_layers=value)) == "text_encoder: num_hidden_layers"
    assert wrong_setting(configs("unet", sample_size=value)) == "unet: sample_size"


def test_layers_may_be_given_for_each_level() -> None:
    assert wrong_setting(configs("unet", layers_per_block=[2, 2, 2, 2])) == ""
    assert wrong_setting(configs("unet", layers_per_block=[2, 2, 2, 10**9])) == "unet: layers_per_block"


def test_a_schedule_rises() -> None:
    assert wrong_setting(configs("scheduler", beta_start=0.02, beta_end=0.01)) == "scheduler: beta_start, beta_end"
