"""Names there and back, and what a pair adds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lorasmith.errors import ModelError
from lorasmith.exporting.key_tables import key_table
from lorasmith.exporting.kohya import from_kohya, merged_delta, to_kohya

MakeLora = Callable[..., dict[str, Tensor]]
LINEAR = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
LINEAR_THERE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
CONVOLUTION_THERE = "lora_unet_mid_block_attentions_0_proj_in"


def pair(module: str, down: tuple[int, ...], up: tuple[int, ...], alpha: float | None = None) -> dict[str, Tensor]:
    tensors = {f"{module}.lora_down.weight": torch.randn(down), f"{module}.lora_up.weight": torch.randn(up)}
    return tensors if alpha is None else tensors | {f"{module}.alpha": torch.tensor(alpha)}


@pytest.mark.parametrize(
    ("components", "keys"), [(("denoiser",), 576), (("text_encoder",), 216), (("denoiser", "text_encoder"), 792)]
)
def test_number_of_keys(make_lora: MakeLora, components: tuple[str, ...], keys: int) -> None:
    named = to_kohya(make_lora(components), family="sd15", alpha=1.5)
    assert len(named) == keys
    alphas = [tensor for name, tensor in named.items() if name.endswith(".alpha")]
    assert len(alphas) == keys // 3
    assert all(a.dtype == torch.float32 and a.shape == () and a.item() == 1.5 for a in alphas)
    prefixes = {"denoiser": "lora_unet_", "text_encoder": "lora_te_text_model_encoder_layers_"}
    assert all(name.startswith(tuple(prefixes[one] for one in components)) for name in named)


def test_convolutions_have_four_dimensions_even_if_given_two(make_lora: MakeLora) -> None:
    tensors = make_lora(("denoiser",))
    flat = {name: tensor.flatten(start_dim=1) for name, tensor in tensors.items()}
    named, named_flat = (to_kohya(one, family="sd15", alpha=1) for one in (tensors, flat))
    four = {name for name, tensor in named.items() if tensor.ndim == 4}
    assert len(four) == 64
    assert all(torch.equal(named[name], named_flat[name]) for name in named)
    assert named[f"{CONVOLUTION_THERE}.lora_down.weight"].shape == (2, 1280, 1, 1)
    assert named[f"{LINEAR_THERE}.lora_down.weight"].shape == (2, 1280)


@pytest.mark.parametrize(
    "wrong",
    [
        {f"{LINEAR}.lora_down.weight": torch.zeros(2, 4)},  # half a pair
        {f"{LINEAR}.lora_A.weight": torch.zeros(2, 4), f"{LINEAR}.lora_B.weight": torch.zeros(4, 2)},
        {f"denoiser.conv_in.lora_{part}.weight": torch.zeros(2, 2) for part in ("down", "up")},  # no target
    ],
)
def test_wrong_names_are_our_own_mistake(wrong: dict[str, Tensor]) -> None:
    with pytest.raises(AssertionError):
        to_kohya(wrong, family="sd15", alpha=1)


@pytest.mark.parametrize("alpha", [2.0, 0.75, 16.0])
def test_there_and_back_the_change_stays_the_same(make_lora: MakeLora, alpha: float) -> None:
    layers = key_table("sd15").layers.values()
    tensors = make_lora(shapes={layer.name: (12, 8, 1, 1)[: len(layer.weight_shape())] for layer in layers})
    back = from_kohya(to_kohya(tensors, family="sd15", alpha=alpha), family="sd15")
    assert back.keys() == tensors.keys()
    for name in (name.removesuffix(".lora_up.weight") for name in tensors if name.endswith("up.weight")):
        down, up = (tensors[f"{name}.lora_{part}.weight"] for part in ("down", "up"))
        down_back, up_back = (back[f"{name}.lora_{part}.weight"] for part in ("down", "up"))
        assert down_back.shape == down.shape
        assert torch.equal(down_back, down)
        change, change_back = merged_delta(down, up, alpha), merged_delta(down_back, up_back, down.shape[0])
        assert torch.allclose(change, change_back, rtol=1e-5, atol=1e-7)


def test_half_precision_and_missing_alpha() -> None:
    tensors = {name: tensor.half() for name, tensor in pair(LINEAR_THERE, (4, 8), (8, 4)).items()}
    back = from_kohya(tensors, family="sd15")
    assert {tensor.dtype for tensor in back.values()} == {torch.float32}
    assert torch.equal(back[f"{LINEAR}.lora_up.weight"], tensors[f"{LINEAR_THERE}.lora_up.weight"].float())


def test_dimensions_of_files_are_made_those_of_the_layer() -> None:
    stored = pair(LINEAR_THERE, (4, 8, 1, 1), (8, 4, 1, 1), 4.0) | pair(CONVOLUTION_THERE, (4, 8), (8, 4), 2.0)
    back = from_kohya(stored, family="sd15")
    assert back[f"{LINEAR}.lora_down.weight"].shape == (4, 8)
    convolution = back["denoiser.mid_block.attentions.0.proj_in.lora_up.weight"]
    assert torch.equal(convolution[:, :, 0, 0], stored[f"{CONVOLUTION_THERE}.lora_up.weight"] * 0.5)


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        (pair("lora_unet_input_blocks_4_1_proj_in", (2, 4), (4, 2)), "init_from_foreign"),  # SDXL
        (pair("lora_te_encoder_layers_0_mlp_fc1", (2, 4), (4, 2)), "init_from_foreign"),  # without text_model
        (pair("lora_unet_down_blocks_0_resnets_0_conv1", (2, 4, 3, 3), (4, 2, 1, 1)), "init_from_foreign"),  # LoCon
        ({f"{LINEAR_THERE}.hada_w1_a": torch.zeros(2, 2)}, "init_from_foreign"),
        (pair(LINEAR_THERE, (2, 4), (4, 2)) | {f"{LINEAR_THERE}.dora_scale": torch.ones(4, 1)}, "init_from_foreign"),
        ({"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.zeros(2, 2)}, "init_from_foreign"),
        ({f"{LINEAR_THERE}.lora_up.weight": torch.zeros(4, 2)}, "init_from_incomplete"),
        ({f"{LINEAR_THERE}.alpha": torch.tensor(1.0)}, "init_from_incomplete"),
        ({}, "init_from_incomplete"),
        (pair(LINEAR_THERE, (2, 4), (4, 3)), "init_from_shape"),
        (pair(LINEAR_THERE, (0, 4), (4, 0)), "init_from_shape"),
        (pair(CONVOLUTION_THERE, (2, 4, 3, 3), (4, 2, 1, 1)), "init_from_shape"),
        (pair(LINEAR_THERE, (2, 4), (4, 2)) | {f"{LINEAR_THERE}.alpha": torch.ones(2)}, "init_from_shape"),
        (pair(LINEAR_THERE, (2, 4), (4, 2), float("nan")), "init_from_not_finite"),
    ],
)
def test_foreign_and_broken_files_are_refused(tensors: dict[str, Tensor], code: str) -> None:
    with pytest.raises(ModelError) as caught:
        from_kohya(tensors, family="sd15")
    assert caught.value.code == code


def test_merged_delta_is_what_the_pair_computes() -> None:
    torch.manual_seed(0)
    down, up, sample = torch.randn(3, 5), torch.randn(7, 3), torch.randn(2, 5)
    assert torch.allclose(sample @ merged_delta(down, up, 6.0).T, 2.0 * (sample @ down.T @ up.T), atol=1e-5)
    convolved = merged_delta(down[:, :, None, None], up[:, :, None, None], 6.0)
    assert convolved.shape == (7, 5, 1, 1)
    assert torch.equal(convolved[:, :, 0, 0], merged_delta(down, up, 6.0))
