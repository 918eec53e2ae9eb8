"""Layers of a file by the names and in the shapes of their family."""

from pathlib import Path

import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.lora_files.reader import read_lora
from lorasmith.lora_tools.layers import layers, pairs
from tests.lora_files.written import saved
from tests.lora_tools.made import tensors_of, write

CONVOLUTION = "lora_unet_mid_block_attentions_0_proj_in"  # 1x1 in SD 1.x
LINEAR = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"


def test_matrices_get_the_dimensions_of_the_layer(tmp_path: Path) -> None:
    shapes = {CONVOLUTION: (), LINEAR: (1, 1)}
    tensors = {}
    for name, ones in shapes.items():
        tensors[f"{name}.lora_down.weight"] = torch.ones(2, 8, *ones)
        tensors[f"{name}.lora_up.weight"] = torch.ones(8, 2, *ones)
        tensors[f"{name}.dora_scale"] = torch.ones(8)
    path = saved(tensors, tmp_path / "a")
    with path.open("rb") as file:
        found = {
            layer.name: {suffix: array.shape for suffix, array in layer.arrays(file).items()}
            for layer in layers(read_lora(path), "sd15")
        }
    assert found == {
        CONVOLUTION: {"lora_down.weight": (2, 8, 1, 1), "lora_up.weight": (8, 2, 1, 1), "dora_scale": (8, 1, 1, 1)},
        LINEAR: {"lora_down.weight": (2, 8), "lora_up.weight": (8, 2), "dora_scale": (8, 1)},
    }


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [("lora_up.weight", (320, 3)), ("lora_up.weight", (320, 2, 3, 3)), ("lora_down.weight", (640,)), ("alpha", (2,))],
)
def test_tensors_that_do_not_fit_each_other(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    path = write(tmp_path / "a", {**tensors_of(), f"{name}.{suffix}": torch.ones(shape)})
    with pytest.raises(ModelError, match="tool_incomplete"):
        list(layers(read_lora(path), "sd15"))


def test_the_difference_of_a_layer_has_its_dimensions(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {**tensors_of(), f"{LINEAR}.diff": torch.ones(8)})
    with pytest.raises(ModelError, match="tool_incomplete"):
        list(layers(read_lora(path), "sd15"))


def test_whole_numbers_are_no_matrices(tmp_path: Path) -> None:
    name = f"{LINEAR}.lora_up.weight"
    pair = {name: torch.ones(8, 2, dtype=torch.int64), name.replace("up", "down"): torch.ones(2, 8)}
    path = write(tmp_path / "a", {**tensors_of(), **pair})
    with pytest.raises(ModelError, match="tool_incomplete"):
        list(layers(read_lora(path), "sd15"))


def test_pairs_are_products_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "a", {**tensors_of(), f"{LINEAR}.w_norm": torch.ones(4)})
    with pytest.raises(ModelError, match="tool_kind"):
        pairs(read_lora(path), "sd15", "convert")
