"""Alphas that stand beside the tensors."""

import json
from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.lora_files.peft_settings import PeftSettings, read_peft_settings

PATH = "mid_block.attentions.0.proj_in"


def test_one_alpha_for_all_and_patterns_for_some() -> None:
    settings = PeftSettings({"lora_alpha": 8, "alpha_pattern": {"proj_in": 2, "^conv_in$": 4}})
    assert settings.alpha_of(PATH, 4) == 2.0 and settings.alpha_of("conv_in", 4) == 4.0
    assert settings.alpha_of("mid_block.own_proj_in", 4) == 8.0


def test_rslora_divides_by_the_root_of_the_rank() -> None:
    assert PeftSettings({"lora_alpha": 8, "use_rslora": True}).alpha_of(PATH, 16) == 32.0


@pytest.mark.parametrize("alpha", [None, "8", True, float("nan"), [8]])
def test_what_is_no_number_is_no_alpha(alpha: object) -> None:
    assert PeftSettings({"lora_alpha": alpha}).alpha_of(PATH, 4) is None


def test_settings_in_the_metadata_are_of_a_component() -> None:
    stated = {"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2}
    found = read_peft_settings(Path("x"), {"lora_adapter_metadata": json.dumps(stated)})
    assert {name: one.alpha_of(PATH, 1) for name, one in found.items()} == {"denoiser": 8.0, "text_encoder": 2.0}
    with pytest.raises(ModelError, match="model_damaged"):
        read_peft_settings(Path("x"), {"lora_adapter_metadata": "{"})


def test_settings_in_the_neighbour_count_for_pefts_own_name_only(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    assert read_peft_settings(tmp_path / "adapter_model.safetensors", {})["denoiser"].alpha_of(PATH, 4) == 8.0
    assert read_peft_settings(tmp_path / "other.safetensors", {}) == {}
