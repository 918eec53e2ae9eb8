"""Names there and back, with layers that files hold as one, and what is no file of this kind and family."""

import dataclasses

import pytest
import torch
from torch import Tensor

from lorasmith.adapters.base import LayerSettings, by_layer
from lorasmith.adapters.flat import AdaptedLayer
from lorasmith.adapters.loha import W1_A, W1_B, W2_A, W2_B, Loha
from lorasmith.adapters.lora import DOWN, UP
from lorasmith.errors import ModelError
from lorasmith.exporting.name_table import parse_table
from lorasmith.exporting.names import from_file, to_file
from lorasmith.targets import LayerSpec
from tests.exporting.made_lora import BOTH, LORA, SD15, full_size, made_lora

LINEAR = "denoiser.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
LINEAR_THERE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
CONVOLUTION_THERE = "lora_unet_mid_block_attentions_0_proj_in"
# In files q, k and v are one module, of 6 + 6 + 12 rows in the published model.
FUSED = parse_table(
    "made-up",
    """target\tmodule\tcomponent\tkind\tout\tin\tkernel\tpart
denoiser.a.to_q\tlora_unet_a_qkv\tdenoiser\tlinear\t6\t6\t\t0:6
denoiser.a.to_k\tlora_unet_a_qkv\tdenoiser\tlinear\t6\t6\t\t6:12
denoiser.a.to_v\tlora_unet_a_qkv\tdenoiser\tlinear\t12\t6\t\t12:24
denoiser.a.out\tlora_unet_a_out\tdenoiser\tlinear\t6\t12\t\t
""",
)
PARTS = ("denoiser.a.to_q", "denoiser.a.to_k", "denoiser.a.to_v")


def pair(module: str, down: tuple[int, ...], up: tuple[int, ...], alpha: float | None = None) -> dict[str, Tensor]:
    tensors = {f"{module}.{DOWN}": torch.randn(down), f"{module}.{UP}": torch.randn(up)}
    return tensors if alpha is None else tensors | {f"{module}.alpha": torch.tensor(alpha)}


def delta(tensors: dict[str, Tensor], layer: str, alpha: float | None = None) -> Tensor:
    """The change of a LoRA's layer; with a scale of 1 where no alpha is given."""
    own = by_layer({name: tensor for name, tensor in tensors.items() if not name.endswith("alpha")}, LORA)[layer]
    weight = torch.empty(len(own[UP]), *own[DOWN].shape[1:])
    return LORA.delta(weight, own, LayerSettings(len(own[DOWN]), alpha or len(own[DOWN])))


@pytest.mark.parametrize(("components", "keys"), [(("denoiser",), 576), (("text_encoder",), 216), (BOTH, 792)])
def test_number_of_keys(components: tuple[str, ...], keys: int) -> None:
    named = made_lora(full_size(*components), alpha=1.5).named()
    assert len(named) == keys
    alphas = [tensor for name, tensor in named.items() if name.endswith(".alpha")]
    assert len(alphas) == keys // 3
    assert all(a.dtype == torch.float32 and a.shape == () and a.item() == 1.5 for a in alphas)


@pytest.mark.parametrize(
    "wrong",
    [
        {f"{LINEAR}.lora_A.weight": torch.zeros(2, 4), f"{LINEAR}.lora_B.weight": torch.zeros(4, 2)},
        {f"denoiser.conv_in.{suffix}": torch.zeros(2, 2) for suffix in (DOWN, UP)},  # no target
    ],
)
def test_wrong_names_are_our_own_mistake(wrong: dict[str, Tensor]) -> None:
    with pytest.raises(KeyError):
        to_file(wrong, LORA, SD15, {LINEAR: LayerSettings(2, 1.0)})


@pytest.mark.parametrize("alpha", [2.0, 0.75, 16.0])
def test_there_and_back_the_change_stays_the_same(alpha: float) -> None:
    made = made_lora({name: LayerSpec(12, 8, spec.kernel) for name, spec in full_size().items()}, alpha=alpha)
    back = from_file(made.named(), LORA, SD15)
    assert back.keys() == made.tensors.keys()
    for target in made.layers:
        assert torch.equal(back[f"{target}.{DOWN}"], made.tensors[f"{target}.{DOWN}"])
        torch.testing.assert_close(delta(back, target), delta(made.tensors, target, alpha), rtol=1e-5, atol=1e-7)


def test_half_precision_and_missing_alpha() -> None:
    tensors = {name: tensor.half() for name, tensor in pair(LINEAR_THERE, (4, 8), (8, 4)).items()}
    back = from_file(tensors, LORA, SD15)
    assert {tensor.dtype for tensor in back.values()} == {torch.float32}
    assert torch.equal(back[f"{LINEAR}.{UP}"], tensors[f"{LINEAR_THERE}.{UP}"].float())


def test_convolutions_have_names_of_their_own() -> None:
    back = from_file(pair("lora_unet_down_blocks_0_resnets_0_conv1", (2, 4, 3, 3), (4, 2, 1, 1)), LORA, SD15)
    assert back[f"denoiser.down_blocks.0.resnets.0.conv1.{DOWN}"].shape == (2, 4, 3, 3)


def test_dimensions_of_files_are_made_those_of_the_layer() -> None:
    stored = pair(LINEAR_THERE, (4, 8, 1, 1), (8, 4, 1, 1), 4.0) | pair(CONVOLUTION_THERE, (4, 8), (8, 4), 2.0)
    back = from_file(stored, LORA, SD15)
    assert back[f"{LINEAR}.{DOWN}"].shape == (4, 8)
    convolution = back[f"denoiser.mid_block.attentions.0.proj_in.{UP}"]
    assert torch.equal(convolution[:, :, 0, 0], stored[f"{CONVOLUTION_THERE}.{UP}"] * 0.5)


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        (pair("lora_unet_input_blocks_4_1_proj_in", (2, 4), (4, 2)), "init_from_foreign"),  # SDXL
        (pair("lora_te_encoder_layers_0_mlp_fc1", (2, 4), (4, 2)), "init_from_foreign"),  # without text_model
        (pair("lora_unet_conv_in", (2, 4, 3, 3), (4, 2, 1, 1)), "init_from_foreign"),  # of no preset of sd-scripts
        ({f"{LINEAR_THERE}.hada_w1_a": torch.zeros(2, 2)}, "init_from_foreign"),
        (pair(LINEAR_THERE, (2, 4), (4, 2)) | {f"{LINEAR_THERE}.dora_scale": torch.ones(4, 1)}, "init_from_foreign"),
        ({"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.zeros(2, 2)}, "init_from_foreign"),
        ({f"{LINEAR_THERE}.{UP}": torch.zeros(4, 2)}, "init_from_incomplete"),
        ({f"{LINEAR_THERE}.{DOWN}": torch.zeros(4, 2)}, "init_from_incomplete"),
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
        from_file(tensors, LORA, SD15)
    assert caught.value.code == code


# -- layers that files hold as one -------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2])
def test_a_fused_module_computes_the_rows_of_its_parts(size: int) -> None:
    """Also in a model of another width: parts keep their share of the rows."""
    specs = {
        target: LayerSpec(row.layer.outputs * size, row.layer.inputs * size) for target, row in FUSED.targets.items()
    }
    made = made_lora(specs, rank=2, alpha=3.0)
    named = made.named(FUSED)
    assert {name: tuple(tensor.shape) for name, tensor in named.items()} == {
        f"lora_unet_a_qkv.{DOWN}": (6, 6 * size),
        f"lora_unet_a_qkv.{UP}": (24 * size, 6),
        "lora_unet_a_qkv.alpha": (),
        f"lora_unet_a_out.{DOWN}": (2, 12 * size),
        f"lora_unet_a_out.{UP}": (6 * size, 2),
        "lora_unet_a_out.alpha": (),
    }
    rows = torch.cat([delta(made.tensors, target, 3.0) for target in PARTS])
    torch.testing.assert_close(delta(named, "lora_unet_a_qkv", named["lora_unet_a_qkv.alpha"].item()), rows)
    back = from_file(named, LORA, FUSED)
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in made.tensors.items()}
    for target in specs:
        torch.testing.assert_close(delta(back, target), delta(made.tensors, target, 3.0))


def test_parts_may_have_ranks_of_their_own() -> None:
    specs = {target: row.layer for target, row in FUSED.targets.items() if target in PARTS}
    made = made_lora(specs, rank=1, alpha=0.5)
    other = made_lora({PARTS[2]: specs[PARTS[2]]}, rank=4, alpha=2.0)  # the same scale
    mixed = dataclasses.replace(made, tensors=made.tensors | other.tensors, layers=made.layers | other.layers)
    named = mixed.named(FUSED)
    assert (named[f"lora_unet_a_qkv.{UP}"].shape, named["lora_unet_a_qkv.alpha"].item()) == ((24, 6), 3.0)
    rows = torch.cat([delta(mixed.tensors, target, mixed.settings[target].alpha) for target in PARTS])
    torch.testing.assert_close(delta(named, "lora_unet_a_qkv", 3.0), rows)


def test_parts_may_have_scales_of_their_own() -> None:
    specs = {target: row.layer for target, row in FUSED.targets.items() if target in PARTS}
    made = made_lora(specs, rank=2, alpha=0.5)
    layers = made.layers | {PARTS[2]: AdaptedLayer(specs[PARTS[2]], LayerSettings(2, 4.0))}
    mixed = dataclasses.replace(made, layers=layers)
    named = mixed.named(FUSED)
    rows = torch.cat([delta(mixed.tensors, target, mixed.settings[target].alpha) for target in PARTS])
    torch.testing.assert_close(delta(named, "lora_unet_a_qkv", named["lora_unet_a_qkv.alpha"].item()), rows)


def test_a_fused_module_of_another_trainer_is_split_with_its_whole_rank() -> None:
    tensors = pair("lora_unet_a_qkv", (6, 6), (24, 6), 3.0)
    back = from_file(tensors, LORA, FUSED)
    assert [back[f"{target}.{DOWN}"].shape for target in PARTS] == [(6, 6)] * 3
    rows = torch.cat([delta(back, target) for target in PARTS])
    torch.testing.assert_close(rows, delta(tensors, "lora_unet_a_qkv", 3.0))


def test_rows_that_cannot_be_split_are_refused() -> None:
    with pytest.raises(ModelError, match="init_from_shape"):
        from_file(pair("lora_unet_a_qkv", (3, 6), (25, 3)), LORA, FUSED)


def test_parts_that_are_not_trained_do_not_change() -> None:
    """Nor do they cost ranks, in a model of twice the width too."""
    trained = {target: LayerSpec(2 * FUSED.targets[target].layer.outputs, 12) for target in PARTS[1:]}
    made = made_lora(trained, rank=2, alpha=3.0)
    named = made.named(FUSED)
    assert named[f"lora_unet_a_qkv.{UP}"].shape == (48, 4)
    change = delta(named, "lora_unet_a_qkv", named["lora_unet_a_qkv.alpha"].item())
    assert not change[:12].any()
    torch.testing.assert_close(change[12:], torch.cat([delta(made.tensors, target, 3.0) for target in PARTS[1:]]))


def test_kinds_of_more_matrices_are_fused_too() -> None:
    """Or refused where their matrices have no form for it."""
    kind, settings = Loha(), LayerSettings(2, 1.0)
    generator = torch.Generator().manual_seed(2)
    tensors = {
        f"{target}.{suffix}": torch.randn(shape, generator=generator)
        for target in PARTS
        for suffix, shape in kind.shapes(FUSED.targets[target].layer, settings).items()
    }
    named = to_file(tensors, kind, FUSED, dict.fromkeys(PARTS, settings))
    whole = {suffix: named[f"lora_unet_a_qkv.{suffix}"] for suffix in (W1_A, W1_B, W2_A, W2_B)}
    fused = kind.delta(torch.empty(24, 6), whole, LayerSettings(6, named["lora_unet_a_qkv.alpha"].item()))
    rows = [kind.delta(torch.empty(len(own[W1_A]), 6), own, settings) for own in by_layer(tensors, kind).values()]
    torch.testing.assert_close(fused, torch.cat(rows))
    back = by_layer(from_file(named, kind, FUSED), kind)
    for (target, own), row in zip(back.items(), rows, strict=True):
        torch.testing.assert_close(kind.delta(torch.empty_like(row), own, LayerSettings(2, 2.0)), row, msg=target)
    kind.row_suffixes = frozenset()
    with pytest.raises(AssertionError, match="no form"):
        to_file(tensors, kind, FUSED, dict.fromkeys(PARTS, settings))
    with pytest.raises(AssertionError, match="no form"):
        from_file(named, kind, FUSED)
