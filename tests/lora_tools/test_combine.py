"""Sums of LoRAs and other ranks: the change of every layer, by formula."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lorasmith.errors import InputError, ModelError
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_files.reader import read_lora
from lorasmith.lora_tools.combine import Source, combine, weights_of
from lorasmith.lora_tools.inspection import inspect_lora
from lorasmith.lora_tools.low_rank import Cut
from lorasmith.lora_tools.regroup import parts_of
from tests.lora_files.written import saved
from tests.lora_tools.flow import FORMS, FlowMade
from tests.lora_tools.flow import lora as flow_lora
from tests.lora_tools.made import LAYERS, METADATA, tensors_of, write
from tests.lora_tools.test_convert import by_formula

FIRST = next(iter(LAYERS))
CONVOLUTION = "lora_unet_mid_block_attentions_0_proj_in"


def two(folder: Path) -> tuple[Path, Path]:
    """Files that differ in rank and alpha; the second lacks a layer, and has a convolution in other dimensions."""
    first = tensors_of(rank=2, alpha=1.0)
    second = {key: tensor for key, tensor in tensors_of(rank=3, alpha=6.0, seed=2).items() if FIRST not in key}
    first |= {f"{CONVOLUTION}.lora_down.weight": torch.randn(2, 8, 1, 1)}
    first |= {f"{CONVOLUTION}.lora_up.weight": torch.randn(8, 2, 1, 1), f"{CONVOLUTION}.alpha": torch.tensor(1.0)}
    second |= {f"{CONVOLUTION}.lora_down.weight": torch.randn(3, 8), f"{CONVOLUTION}.lora_up.weight": torch.randn(8, 3)}
    second |= {f"{CONVOLUTION}.alpha": torch.tensor(6.0)}
    return write(folder / "first", first), write(folder / "second", second)


def total(first: Path, second: Path, weights: tuple[float, float]) -> dict[str, Tensor]:
    one, other = by_formula(first), by_formula(second)
    return {name: weights[0] * change + weights[1] * other.get(name, torch.zeros(())) for name, change in one.items()}


def test_a_sum_is_exact(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    made = combine([Source(first, 0.5), Source(second, -2.0)], tmp_path / "out")
    found, expected = by_formula(tmp_path / "out"), total(first, second, (0.5, -2.0))
    assert found.keys() == expected.keys() and made.ranks == (2, 5) and made.energy == 1.0
    for name, change in expected.items():
        assert torch.allclose(found[name], change, atol=1e-5)
    inspection = inspect_lora(tmp_path / "out")
    assert not inspection.oddities and len(inspection.file.alphas) == 1
    assert inspection.file.metadata["modelspec.merged_from"] == "first, second"


def half(*, up: float, alpha: float, rank: int) -> dict[str, Tensor]:
    tensors = {f"{FIRST}.lora_down.weight": (torch.rand(rank, 320) - 0.5) * 0.1, f"{FIRST}.alpha": torch.tensor(alpha)}
    tensors[f"{FIRST}.lora_up.weight"] = (torch.rand(320, rank) * 2 - 1) * up
    return {key: tensor.half() for key, tensor in tensors.items()}


@pytest.mark.parametrize("up", [3e-4, 6e4])
def test_a_sum_in_half_precision_is_rounded_once(tmp_path: Path, up: float) -> None:
    """The scale is in both matrices: `up` alone would leave the range of half precision at either end."""
    path = write(tmp_path / "in", half(up=up, alpha=1.0 if up < 1 else 128.0, rank=128))
    combine([Source(path, 0.7), Source(path, 1.9)], tmp_path / "out")
    expected = 2.6 * by_formula(path)[FIRST]
    assert float((by_formula(tmp_path / "out")[FIRST] - expected).norm() / expected.norm()) < 2**-10


def test_numbers_beyond_the_data_type_are_refused(tmp_path: Path) -> None:
    tensors = {key: tensor if "alpha" in key else tensor * 1e6 for key, tensor in tensors_of().items()}
    with pytest.raises(InputError, match="tool_beyond_range"):
        combine([Source(write(tmp_path / "in", tensors))], tmp_path / "out", precision="fp16")
    assert not (tmp_path / "out").exists()


def test_a_sum_of_a_rank_is_the_best_of_that_rank(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    made = combine([Source(first), Source(second)], tmp_path / "out", cut=Cut(rank=3))
    assert made.ranks == (2, 3)
    worst = 1.0
    for name, change in total(first, second, (1.0, 1.0)).items():
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        expected = (left[:, :3] * values[:3]) @ right[:3]
        assert torch.allclose(by_formula(tmp_path / "out")[name], expected, atol=1e-4)
        worst = min(worst, float(values[:3].square().sum() / values.square().sum()))
    assert made.energy == pytest.approx(worst, abs=1e-4)


def test_a_smaller_file_of_the_same_effect(tmp_path: Path) -> None:
    """Ranks without a change are dropped, and half precision stays half."""
    tensors = {key: tensor if "alpha" in key else tensor.half() for key, tensor in tensors_of(rank=8).items()}
    for name in LAYERS:
        tensors[f"{name}.lora_up.weight"][:, 3:] = 0
    path = write(tmp_path / "in", tensors)
    made = combine([Source(path)], tmp_path / "out", cut=Cut(energy=1 - 1e-9))
    assert made.ranks == (3, 3) and set(read_lora(tmp_path / "out").dtypes) == {"F16"}
    for name, change in by_formula(path).items():
        assert torch.allclose(by_formula(tmp_path / "out")[name], change, atol=2e-2)
    assert read_lora(tmp_path / "out").metadata["ss_network_dim"] == "3"


def test_layers_with_different_ranks_say_so(tmp_path: Path) -> None:
    first, second = two(tmp_path)
    combine([Source(first), Source(second)], tmp_path / "out")
    assert read_lora(tmp_path / "out").metadata["ss_network_dim"] == "Dynamic"


def test_loha_becomes_lora_of_a_rank(tmp_path: Path) -> None:
    shapes = {"hada_w1_a": (320, 2), "hada_w1_b": (2, 320), "hada_w2_a": (320, 2), "hada_w2_b": (2, 320)}
    loha = {f"{FIRST}.{suffix}": torch.randn(shape) for suffix, shape in shapes.items()}
    path = saved({**loha, f"{FIRST}.alpha": torch.tensor(1.0)}, tmp_path / "in", METADATA)
    with pytest.raises(ModelError, match="tool_kind_of_product"):
        combine([Source(path), Source(path)], tmp_path / "none")
    combine([Source(path)], tmp_path / "out", cut=Cut(rank=4))  # a product of ranks 2 and 2 has rank 4
    w1, w2 = (loha[f"{FIRST}.hada_w{n}_a"] @ loha[f"{FIRST}.hada_w{n}_b"] for n in (1, 2))
    assert torch.allclose(by_formula(tmp_path / "out")[FIRST], 0.5 * w1 * w2, atol=1e-3)


def test_what_cannot_be_added(tmp_path: Path) -> None:
    first = write(tmp_path / "first")
    tensors = tensors_of()
    tensors[f"{FIRST}.lora_up.weight"] = torch.ones(640, 2)
    other = write(tmp_path / "other", tensors)
    with pytest.raises(ModelError, match="tool_shapes_differ"):
        combine([Source(first), Source(other)], tmp_path / "out")
    tensors[f"{FIRST}.lora_up.weight"] = torch.full((320, 2), float("nan"))
    with pytest.raises(ModelError, match="tool_not_finite"):
        combine([Source(write(tmp_path / "nan", tensors))], tmp_path / "out")
    dora = {**tensors_of(), f"{FIRST}.dora_scale": torch.ones(320, 1)}
    with pytest.raises(ModelError, match="tool_kind_of_product"):
        combine([Source(write(tmp_path / "dora", dora))], tmp_path / "out", cut=Cut(rank=1))
    assert not (tmp_path / "out").exists()


def test_files_of_two_families_are_named_as_people_do(tmp_path: Path) -> None:
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    sdxl = {f"{name}.lora_down.weight": torch.ones(2, 640), f"{name}.lora_up.weight": torch.ones(640, 2)}
    other = saved(sdxl, tmp_path / "sdxl")
    with pytest.raises(ModelError, match="tool_families_differ") as caught:
        combine([Source(write(tmp_path / "sd15")), Source(other)], tmp_path / "out")
    assert caught.value.fields["families"] == ["SD 1.x", "SDXL"]


def flow_changes(path: Path, made: FlowMade) -> dict[str, Tensor]:
    """The change of each weight by a file in the family's own names, whose matrices have the scale in them."""
    stored, known = safetensors.torch.load_file(path), layers_of(made.family)
    found: dict[str, Tensor] = {}
    for name in {key.partition(".lora_")[0] for key in stored}:
        parts = [part.target for part in parts_of(known.table.modules[name], known.known.pieces)]
        delta = stored[f"{name}.lora_B.weight"].float() @ stored[f"{name}.lora_A.weight"].float()
        found |= dict(zip(parts, delta.split([len(made.weights[part]) for part in parts]), strict=True))
    return found


def test_files_of_flow_matching_are_added_whatever_their_names(flow: FlowMade, tmp_path: Path) -> None:
    """Some have several layers as one module. The sum has the form that ComfyUI and diffusers both read."""
    changes = [flow_lora(flow, tmp_path / f"in{form}", form, seed=seed) for seed, form in enumerate(FORMS)]
    sources = [Source(tmp_path / f"in{form}", weight) for form, weight in zip(FORMS, (1, -0.5, 2, 0.25), strict=True)]
    made = combine(sources, tmp_path / "out")
    expected = {
        name: sum(source.weight * own[name] for source, own in zip(sources, changes, strict=True))
        for name in changes[0]
    }
    found = flow_changes(tmp_path / "out", flow)
    assert found.keys() == expected.keys() and made.energy == 1.0
    for name, change in expected.items():
        torch.testing.assert_close(found[name], change, rtol=1e-4, atol=1e-4, msg=name)
    inspection = inspect_lora(tmp_path / "out")
    outcomes = {reading.program.split()[0]: reading.outcome for reading in inspection.readings}
    assert outcomes["diffusers"] == outcomes["ComfyUI"] == "whole" and inspection.file.families == (flow.family,)
    assert not inspection.oddities


@pytest.mark.parametrize("form", ["", "kohya"])
def test_a_smaller_rank_for_flow_matching(flow: FlowMade, tmp_path: Path, form: str) -> None:
    """A module that the family's own files have as one is cut as one."""
    changes = flow_lora(flow, tmp_path / "in", form)
    made = combine([Source(tmp_path / "in")], tmp_path / "out", cut=Cut(rank=1))
    found, known = flow_changes(tmp_path / "out", flow), layers_of(flow.family)
    assert made.ranks == (1, 1) and found.keys() == changes.keys()
    for rows in known.table.modules.values():
        parts = [part.target for part in parts_of(rows, known.known.pieces)]
        if parts[0] not in changes:
            continue
        left, values, right = torch.linalg.svd(torch.cat([changes[part] for part in parts]), full_matrices=False)
        expected = (left[:, :1] * values[:1]) @ right[:1]
        torch.testing.assert_close(torch.cat([found[part] for part in parts]), expected, rtol=1e-3, atol=1e-3)


def test_kinds_without_a_product_in_flow_matching(flow: FlowMade, tmp_path: Path) -> None:
    """LoHa of a fused module becomes LoRA of the layers that the family's own files have."""
    changes = flow_lora(flow, tmp_path / "in", "comfyui", kind="loha")
    combine([Source(tmp_path / "in"), Source(tmp_path / "in", -0.5)], tmp_path / "out", cut=Cut(energy=1.0))
    found = flow_changes(tmp_path / "out", flow)
    assert found.keys() == changes.keys()
    for name, change in changes.items():
        torch.testing.assert_close(found[name], 0.5 * change, rtol=1e-3, atol=1e-4, msg=name)


def test_a_file_of_two_families_is_added_to_one_of_either(tmp_path: Path) -> None:
    """The attention of five blocks may be FLUX.1's or the smaller klein's: the other file decides."""
    either = "diffusion_model.double_blocks.0.img_attn.qkv"
    files = {
        "either": {f"{either}.lora_A.weight": torch.ones(1, 3072), f"{either}.lora_B.weight": torch.ones(9216, 1)},
        "flux1": {
            "transformer.transformer_blocks.9.attn.to_q.lora_A.weight": torch.ones(1, 3072),
            "transformer.transformer_blocks.9.attn.to_q.lora_B.weight": torch.ones(3072, 1),
        },
        "flux2_klein": {
            "diffusion_model.double_blocks.0.img_mlp.0.lora_A.weight": torch.ones(1, 3072),
            "diffusion_model.double_blocks.0.img_mlp.0.lora_B.weight": torch.ones(18_432, 1),
        },
    }
    for name, tensors in files.items():
        saved(tensors, tmp_path / name)
    assert read_lora(tmp_path / "either").families == ("flux1", "flux2_klein")
    for name in ("flux1", "flux2_klein"):
        combine([Source(tmp_path / "either"), Source(tmp_path / name)], tmp_path / f"{name} and more")
        assert read_lora(tmp_path / f"{name} and more").families == (name,)
    with pytest.raises(ModelError, match="tool_families_differ"):
        combine([Source(tmp_path / "flux1"), Source(tmp_path / "flux2_klein")], tmp_path / "none")


def test_weights() -> None:
    assert weights_of("", 2) == [1.0, 1.0] and weights_of("1,-0.5", 2) == [1.0, -0.5]
    for text in ("1", "1,2,3", "a,b", "1,nan"):
        with pytest.raises(InputError, match="weights_wrong"):
            weights_of(text, 2)
