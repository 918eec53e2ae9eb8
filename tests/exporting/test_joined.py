"""A layer that is trained as one, in files that have three in its place, and back."""

import pytest
import torch
from torch import Tensor

from lorasmith.adapters import adapter_kind
from lorasmith.adapters.base import LayerSettings
from lorasmith.exporting.formats import all_names, table_in
from lorasmith.exporting.joined import for_pieces, put_together, taken_apart
from lorasmith.exporting.name_table import parse_table, spec_of_piece
from lorasmith.exporting.names import from_file, fused, to_file
from lorasmith.targets import LayerSpec

OWN = parse_table(
    "made-up",
    "target\tmodule\tcomponent\tkind\tout\tin\tkernel\tpart\tpieces\n"
    "denoiser.a.to_qkv\tdiffusion_model.b.qkv\tdenoiser\tlinear\t18\t6\t\t\tto_q to_k to_v\n"
    "denoiser.a.out\tdiffusion_model.b.out\tdenoiser\tlinear\t6\t6\t\t\t\n",
)
DIFFUSERS = table_in(OWN, "diffusers", {})
PIECES = tuple(f"denoiser.a.{name}" for name in ("to_q", "to_k", "to_v"))
SETTINGS = LayerSettings(2, 4.0)


def drawn(kind: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        f"{row.target}.{suffix}": shape
        for row in OWN.targets.values()
        for suffix, shape in adapter_kind(kind).shapes(row.layer, SETTINGS).items()
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_the_table_has_a_row_for_each_piece() -> None:
    assert list(DIFFUSERS.modules) == [
        f"transformer.{name}" for name in ("a.to_q", "a.to_k", "a.to_v", "a.out")
    ] and DIFFUSERS.pieces == {"denoiser.a.to_qkv": PIECES}
    assert DIFFUSERS.targets[PIECES[1]].layer == LayerSpec(6, 6) == spec_of_piece(LayerSpec(18, 6), 3)
    assert table_in(OWN, "comfyui", {}) is OWN and not OWN.pieces
    assert for_pieces({"denoiser.a.out": 1}, DIFFUSERS, lambda *_: 2) == {"denoiser.a.out": 1}


def test_pieces_compute_the_rows_of_the_layer() -> None:
    tensors, kind = drawn("lora"), adapter_kind("lora")
    named = to_file(tensors, kind, DIFFUSERS, dict.fromkeys(OWN.targets, SETTINGS))
    whole = 2.0 * tensors["denoiser.a.to_qkv.lora_up.weight"] @ tensors["denoiser.a.to_qkv.lora_down.weight"]
    changes = [
        named[f"transformer.a.{piece}.lora_B.weight"] @ named[f"transformer.a.{piece}.lora_A.weight"]
        for piece in ("to_q", "to_k", "to_v")
    ]
    assert torch.allclose(torch.cat(changes), whole, atol=1e-5) and len(named) == 8


@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_what_was_taken_apart_comes_back_with_the_ranks_it_had(kind: str) -> None:
    tensors = drawn(kind)
    layers = {"denoiser.a.to_qkv": {key.split(".", 3)[3]: value for key, value in tensors.items() if "qkv" in key}}
    apart = taken_apart(layers, adapter_kind(kind), DIFFUSERS)
    assert tuple(apart) == PIECES
    flat = {f"{target}.{suffix}": tensor for target, layer in apart.items() for suffix, tensor in layer.items()}
    back = put_together(flat, adapter_kind(kind), DIFFUSERS, fused)
    assert back.keys() == {key for key in tensors if "qkv" in key}
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in back.items())


@pytest.mark.parametrize("left_out", ["", "to_k"])
def test_pieces_with_ranks_of_their_own_make_the_same_change_together(left_out: str) -> None:
    """As other programs train them: the ranks add up."""
    generator, stored, expected = torch.Generator().manual_seed(1), {}, []
    for piece in ("to_q", "to_k", "to_v"):
        down, up = torch.randn((2, 6), generator=generator), torch.randn((6, 2), generator=generator)
        if piece == left_out:
            expected.append(torch.zeros(6, 6))
            continue
        stored |= {f"transformer.a.{piece}.lora_A.weight": down, f"transformer.a.{piece}.lora_B.weight": up}
        expected.append(up @ down)
    found = from_file(stored, adapter_kind("lora"), all_names(OWN, {}))
    assert set(found) == {"denoiser.a.to_qkv.lora_down.weight", "denoiser.a.to_qkv.lora_up.weight"}
    up, down = found["denoiser.a.to_qkv.lora_up.weight"], found["denoiser.a.to_qkv.lora_down.weight"]
    assert down.shape == (6, 6) and torch.allclose(up @ down, torch.cat(expected), atol=1e-6)
