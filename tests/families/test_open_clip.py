"""A text encoder under OpenCLIP's names is read to the bit as diffusers' own conversion makes it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lorasmith.errors import ModelError
from lorasmith.families.identity import component_sha256
from lorasmith.families.open_clip import text_places
from lorasmith.families.recognize import recognize
from lorasmith.families.stored_tensors import read_component
from lorasmith.families.weights import BaseWeights

WIDTH, LAYERS = 64, 3
SD2, SDXL = "cond_stage_model.model.", "conditioner.embedders.1.model."


def random_encoder(prefix: str, *, layers: int = LAYERS, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, WIDTH),
        "token_embedding.weight": (100, WIDTH),
        "text_projection": (WIDTH, WIDTH),
        "logit_scale": (),
        "ln_final.weight": (WIDTH,),
        "ln_final.bias": (WIDTH,),
    }
    for layer in range(layers):
        stem = f"transformer.resblocks.{layer}"
        shapes |= {f"{stem}.{norm}.{leaf}": (WIDTH,) for norm in ("ln_1", "ln_2") for leaf in ("weight", "bias")}
        for name, rows, columns in (
            ("attn.in_proj_", 3 * WIDTH, WIDTH),
            ("attn.out_proj.", WIDTH, WIDTH),
            ("mlp.c_fc.", 4 * WIDTH, WIDTH),
            ("mlp.c_proj.", WIDTH, 4 * WIDTH),
        ):
            shapes |= {f"{stem}.{name}weight": (rows, columns), f"{stem}.{name}bias": (rows,)}
    generator = torch.Generator().manual_seed(3)
    return {prefix + name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def weights_at(path: Path, known: BaseWeights, prefix: str, *, layers: int | None = None) -> BaseWeights:
    """The text encoder of this file alone, as part of a model that is known."""
    names = replace(known.names, from_single_file=lambda _, stored: text_places(prefix, stored, layers=layers))
    return replace(known, path=path, layout="single_file", names=names)


def converted(stored: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    model = SimpleNamespace(config=SimpleNamespace(hidden_size=WIDTH))
    found = convert_open_clip_checkpoint(model, dict(stored), prefix=prefix)
    is_layer = lambda name: name.startswith(("encoder.", "embeddings.", "final_layer_norm."))  # noqa: E731
    return {"text_model." + name if is_layer(name) else name: tensor for name, tensor in found.items()}


@pytest.mark.parametrize("prefix", [SD2, SDXL])
@pytest.mark.parametrize("is_pickle", [False, True])
def test_the_same_bits_as_diffusers(miniature, tmp_path: Path, prefix: str, is_pickle: bool) -> None:
    stored = random_encoder(prefix)
    if is_pickle:
        path = tmp_path / "model.ckpt"
        torch.save({"state_dict": stored}, path)
    else:
        path = tmp_path / "model.safetensors"
        save_file(stored, path)
    found = read_component(weights_at(path, recognize(miniature.folder), prefix), "text_encoder", torch.float16)
    expected = converted(stored, prefix)
    if prefix == SD2:  # its text encoder has no projection, and diffusers leaves it out
        assert torch.equal(found.pop("text_projection.weight"), stored[f"{SD2}text_projection"].T)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].is_contiguous() and found[name].untyped_storage().nbytes() == tensor.nbytes


def test_layers_after_the_last_are_left_out() -> None:
    stored = random_encoder(SD2, layers=3)
    found = text_places(SD2, stored, layers=2)
    rest = {name for name in text_places(SD2, stored) if ".layers.2." in name}
    assert len(rest) == 16 and rest.isdisjoint(found)
    assert text_places(SD2, stored).keys() == found.keys() | rest


def test_the_identity_follows_every_part(miniature, tmp_path: Path) -> None:
    known = recognize(miniature.folder)
    stored = random_encoder(SDXL)
    seen = set()
    for row in (None, 0, WIDTH, 3 * WIDTH - 1):
        changed = {name: tensor.clone() for name, tensor in stored.items()}
        if row is not None:
            changed[f"{SDXL}transformer.resblocks.1.attn.in_proj_weight"][row, 5] += 1
        path = tmp_path / f"{row}.safetensors"
        save_file(changed, path)
        seen.add(component_sha256(weights_at(path, known, SDXL), "text_encoder"))
    assert len(seen) == 4


def test_a_fused_matrix_that_cannot_be_divided(miniature, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"{SD2}transformer.resblocks.0.attn.in_proj_bias": torch.zeros(10)}, path)
    with pytest.raises(ModelError) as caught:
        read_component(weights_at(path, recognize(miniature.folder), SD2), "text_encoder", torch.float32)
    assert caught.value.code == "model_damaged"
