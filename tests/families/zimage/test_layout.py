"""Z-Image's names: of layers in files, against the class at its published size and diffusers' own conversions."""

import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_z_image_lora_to_diffusers

from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.families.zimage.family import ZImage, denoiser_builder
from lorasmith.families.zimage.layout import NAMES, from_diffusers, layer_names, vae_factor
from lorasmith.targets import TargetModule


def _published() -> dict[str, TargetModule]:
    models = {"denoiser": denoiser_builder()({})}  # the class's own sizes are those of the published model
    return {target.name: target for target in ZImage.target_modules(ZImage, models)}  # type: ignore[arg-type]


def test_every_linear_layer_has_a_row_with_its_published_size() -> None:
    table, published = parse_table("zimage", layer_names()), _published()
    assert {name: target.spec for name, target in published.items()} == {
        name: row.layer for name, row in table.targets.items()
    }
    assert len(published) == len(table.modules) == 276 and table.form is PEFT
    model = denoiser_builder()({})
    linear = {f"denoiser.{path}" for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear == set(published)


def test_blocks_that_are_compiled_once() -> None:
    blocks = ZImage.repeated_blocks(ZImage, {"denoiser": denoiser_builder()({})})  # type: ignore[arg-type]
    assert [type(block).__name__ for block in blocks] == ["ZImageTransformerBlock"] * 34


def test_names_in_files_are_those_that_both_readers_take() -> None:
    """diffusers' names of the layers behind "diffusion_model.": the names of the published checkpoint, which has q, k
    and v as one layer, lose layers in diffusers."""
    table = parse_table("zimage", layer_names())
    for name, row in table.targets.items():
        pair = {f"{row.module}.lora_{letter}.weight": torch.ones(1) for letter in "AB"}
        found = _convert_non_diffusers_z_image_lora_to_diffusers(pair)
        path = name.removeprefix("denoiser.")
        assert set(found) == {f"transformer.{path}.lora_{letter}.weight" for letter in "AB"}


def test_the_text_encoders_head_is_left_out() -> None:
    names = ["model.norm.weight", "lm_head.weight"]
    assert from_diffusers("text_encoder", names) == {"norm.weight": "model.norm.weight"}
    assert from_diffusers("text_encoder", ["norm.weight"]) == {"norm.weight": "norm.weight"}
    assert from_diffusers("vae", ["conv1.weight"]) == {"conv1.weight": "conv1.weight"}


def test_sizes_follow_from_the_levels_of_the_vae() -> None:
    assert vae_factor({"vae": {"block_out_channels": [128, 256, 512, 512]}}) == 8
    assert NAMES.components == ("transformer", "vae", "text_encoder")
