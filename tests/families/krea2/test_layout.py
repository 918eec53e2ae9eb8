"""Krea 2's names: of layers in files, against diffusers' own conversion of the published checkpoint's names."""

import torch
from diffusers.loaders.single_file_utils import convert_krea2_transformer_checkpoint_to_diffusers

from lorasmith.exporting.name_table import PEFT, parse_table
from lorasmith.families.krea2.family import Krea2, denoiser_builder
from lorasmith.families.krea2.layout import NAMES, from_diffusers, layer_names, taps
from lorasmith.targets import TargetModule


def _published() -> dict[str, TargetModule]:
    models = {"denoiser": denoiser_builder()({})}  # the class's own sizes are those of the published model
    return {target.name: target for target in Krea2.target_modules(Krea2, models)}  # type: ignore[arg-type]


def test_every_linear_layer_has_a_row_with_its_published_size() -> None:
    table, published = parse_table("krea2", layer_names()), _published()
    assert {name: target.spec for name, target in published.items()} == {
        name: row.layer for name, row in table.targets.items()
    }
    assert len(published) == len(table.modules) == 264 and table.form is PEFT
    model = denoiser_builder()({})
    linear = {f"denoiser.{path}" for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear == set(published)


def test_blocks_that_are_compiled_once() -> None:
    blocks = Krea2.repeated_blocks(Krea2, {"denoiser": denoiser_builder()({})})  # type: ignore[arg-type]
    assert [type(block).__name__ for block in blocks] == ["Krea2TransformerBlock"] * 28


def test_names_in_files_are_those_of_the_published_checkpoint() -> None:
    """ComfyUI maps "diffusion_model." before the checkpoint's name of a weight; diffusers converts that name."""
    table = parse_table("krea2", layer_names())
    for name, row in table.targets.items():
        assert row.module.startswith("diffusion_model.")
        native = f"{row.module.removeprefix('diffusion_model.')}.weight"
        converted = convert_krea2_transformer_checkpoint_to_diffusers({native: torch.zeros(1)})
        assert list(converted) == [f"{name.removeprefix('denoiser.')}.weight"]


def test_the_text_encoders_eyes_are_left_out() -> None:
    names = ["language_model.norm.weight", "visual.blocks.0.norm1.weight"]
    assert from_diffusers("text_encoder", names) == {"norm.weight": "language_model.norm.weight"}
    older = ["model.language_model.norm.weight", "model.visual.x.weight", "lm_head.weight"]
    assert from_diffusers("text_encoder", older) == {"norm.weight": "model.language_model.norm.weight"}
    assert from_diffusers("vae", ["conv1.weight"]) == {"conv1.weight": "conv1.weight"}


def test_layers_of_the_text_encoder_are_stated_or_the_usual() -> None:
    assert taps({"pipeline": {"text_encoder_select_layers": [1, 2]}}) == (1, 2)
    assert taps({"pipeline": {}}) == tuple(range(2, 36, 3))
    assert NAMES.components == ("transformer", "vae", "text_encoder")
