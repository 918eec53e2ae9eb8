"""Each odd fact is found where it is, and nowhere else."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.messages import has
from tests.lora_tools.made import LAYERS, METADATA, tensors_of, write

FIRST, SECOND, TEXT = LAYERS
Tensors = dict[str, Tensor]


def not_a_number(tensors: Tensors) -> None:
    tensors[f"{FIRST}.lora_up.weight"][0, 0] = float("inf")


def zero(tensors: Tensors) -> None:
    tensors[f"{FIRST}.lora_up.weight"].zero_()


def half(tensors: Tensors) -> None:
    del tensors[f"{FIRST}.lora_up.weight"]


def embeddings(tensors: Tensors) -> None:
    tensors["bundle_emb.word.string_to_param"] = torch.ones(2)


def flat_names(tensors: Tensors) -> None:
    for key in [key for key in tensors if key.startswith(TEXT)]:
        tensors[key.replace("text_model_", "")] = tensors.pop(key)


def flat_names_beside_flux1(tensors: Tensors) -> None:
    """Whose CLIP-L has the same names."""
    for key in [key for key in tensors if not key.startswith(TEXT)]:
        del tensors[key]
    flat_names(tensors)
    name = "lora_unet_single_blocks_0_linear2"
    tensors |= {f"{name}.lora_down.weight": torch.ones(2, 15_360), f"{name}.lora_up.weight": torch.ones(3072, 2)}
    tensors[f"{name}.alpha"] = torch.tensor(1.0)


def another_layer(tensors: Tensors) -> None:
    tensors |= {key.replace(FIRST, "lora_unet_x"): tensors[key] for key in list(tensors) if key.startswith(FIRST)}


def other_layers(tensors: Tensors) -> None:
    for number in range(2):
        for key in [key for key in tensors if key.startswith((FIRST, SECOND, TEXT))]:
            tensors[f"lora_unet_x{number}_{key}"] = tensors[key]
    for key in [key for key in tensors if not key.startswith(("lora_unet_x", TEXT))]:
        tensors[key.replace("_attn1_to_q", "_attn1_to_v").replace("attn1_to_k", "attn2_to_out_0")] = tensors[key]
        tensors[key.replace("_attn1_to_q", "_attn1_to_k").replace("attn1_to_k", "attn2_to_q")] = tensors[key]


def dotted(tensors: Tensors) -> None:
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_v"
    tensors[f"unet.{path}.lora_A.weight"] = torch.ones(2, 320)
    tensors[f"unet.{path}.lora_B.weight"] = torch.ones(320, 2)


def no_alphas(tensors: Tensors) -> None:
    for key in [key for key in tensors if key.endswith(".alpha")]:
        del tensors[key]


def some_alphas(tensors: Tensors) -> None:
    del tensors[f"{FIRST}.alpha"]


def two_alphas(tensors: Tensors) -> None:
    tensors[f"{FIRST}.alpha"] = torch.tensor(2.0)


def a_convolution_with_its_own_alpha(tensors: Tensors) -> None:
    name = "lora_unet_mid_block_resnets_0_conv1"
    tensors |= {f"{name}.lora_down.weight": torch.ones(2, 8, 3, 3), f"{name}.lora_up.weight": torch.ones(8, 2, 1, 1)}
    tensors[f"{name}.alpha"] = torch.tensor(4.0)


def as_many_convolutions_as_others(tensors: Tensors) -> None:
    a_convolution_with_its_own_alpha(tensors)
    for key in [key for key in tensors if "resnets" in key]:
        tensors[key.replace("conv1", "conv2")] = tensors[key]


def loha_too(tensors: Tensors) -> None:
    del tensors[f"{FIRST}.lora_up.weight"], tensors[f"{FIRST}.lora_down.weight"]
    for number in (1, 2):
        tensors[f"{FIRST}.hada_w{number}_a"] = torch.ones(320, 2)
        tensors[f"{FIRST}.hada_w{number}_b"] = torch.ones(2, 320)


def loha_of_two_alphas(tensors: Tensors) -> None:
    """As training with `--conv-rank` makes it; diffusers reads no LoHa, and other programs take each alpha."""
    tensors.clear()
    for number, (name, (outputs, inputs)) in enumerate(LAYERS.items()):
        tensors[f"{name}.alpha"] = torch.tensor(1.0 + number)
        for factor in (1, 2):
            tensors[f"{name}.hada_w{factor}_a"] = torch.ones(outputs, 2)
            tensors[f"{name}.hada_w{factor}_b"] = torch.ones(2, inputs)


def dora(tensors: Tensors) -> None:
    for name, (outputs, _) in LAYERS.items():
        tensors[f"{name}.dora_scale"] = torch.ones(outputs, 1)


def dora_of_peft(tensors: Tensors) -> None:
    for name, (outputs, _) in LAYERS.items():
        tensors[f"{name}.dora_scale"] = torch.ones(outputs)


CHANGES: dict[Callable[[Tensors], None], set[str]] = {
    not_a_number: {"not_finite"},
    zero: {"zero_modules"},
    half: {"incomplete", "several_kinds"},
    embeddings: {"unknown_keys"},
    flat_names: {"text_names"},
    flat_names_beside_flux1: {"text_names", "metadata_of_another_family"},
    another_layer: {"foreign_layers"},
    other_layers: {"foreign_layers_many"},
    dotted: {"several_namings", "not_for_webuis", "alpha_missing_in_part"},
    no_alphas: {"alpha_missing"},
    some_alphas: {"alpha_missing_in_part"},
    two_alphas: {"alphas_differ"},
    a_convolution_with_its_own_alpha: set(),
    as_many_convolutions_as_others: {"alphas_differ"},
    loha_too: {"several_kinds"},
    loha_of_two_alphas: set(),
    dora: {"dora_by_output"},
    dora_of_peft: {"dora_flat"},
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_tensors(tmp_path: Path, change: Callable[[Tensors], None]) -> None:
    tensors = tensors_of()
    change(tensors)
    found = {odd.code for odd in inspect_lora(write(tmp_path / "a", tensors)).oddities}
    assert found == CHANGES[change]
    assert all(has("en", f"odd.{code}.text") for code in found)


METADATAS = {
    "none": ({}, {"no_metadata"}),
    "another family": ({"ss_base_model_version": "sdxl_base_v1-0"}, {"metadata_of_another_family"}),
    "another hash": ({**METADATA, "sshs_model_hash": "0" * 64}, {"hash_differs"}),
    "no version": ({"ss_steps": "1"}, {"version_not_stated"}),
    "settings of PEFT": ({**METADATA, "lora_adapter_metadata": "{}"}, {"adapter_metadata"}),
    "nothing odd": (METADATA, set()),
}


@pytest.mark.parametrize("what", METADATAS)
def test_metadata(tmp_path: Path, what: str) -> None:
    metadata, codes = METADATAS[what]
    assert {odd.code for odd in inspect_lora(write(tmp_path / "a", metadata=metadata)).oddities} == codes


def test_a_header_that_forge_refuses(tmp_path: Path) -> None:
    content = write(tmp_path / "a").read_bytes()
    length = int.from_bytes(content[:8], "little")
    spaced = b"{ " + content[9 : 8 + length]
    (tmp_path / "a").write_bytes(len(spaced).to_bytes(8, "little") + spaced + content[8 + length :])
    assert {odd.code for odd in inspect_lora(tmp_path / "a").oddities} == {"header_start"}


def test_names_of_no_family(tmp_path: Path) -> None:
    tensors = {"lora_unet_x.lora_down.weight": torch.ones(2, 4), "lora_unet_x.lora_up.weight": torch.ones(4, 2)}
    assert "family_unknown" in {odd.code for odd in inspect_lora(write(tmp_path / "a", tensors, {"a": "b"})).oddities}
