"""The training adapter of a distilled base model, found in a file by its header."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorasmith.errors import ModelError
from lorasmith.families.recognize import recognize
from lorasmith.families.stored_tensors import read_component
from lorasmith.families.weights import BaseWeights
from lorasmith.lora_files.training_adapter import with_training_adapter
from tests.families.tiny import write_header
from tests.families.zimage.miniature import make_model, make_split
from tests.families.zimage.turbo import WEIGHTS, make_sum, make_turbo, write_adapter


@pytest.fixture
def turbo(tmp_path: Path) -> BaseWeights:
    return recognize(make_turbo(tmp_path / "turbo"))


@pytest.mark.parametrize("naming", ["own", "kohya", "fused"])
def test_every_naming_of_its_layers_gives_the_same_sum(turbo: BaseWeights, tmp_path: Path, naming: str) -> None:
    """Also alphas and three layers in one module."""
    path = write_adapter(tmp_path / "adapter.safetensors", naming=naming, dtype=torch.float32)
    weights = with_training_adapter(turbo, path)
    found, expected = (
        read_component(weights, "transformer", torch.float32),
        load_file(make_sum(turbo.path, tmp_path / "sum") / WEIGHTS),
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_it_is_added_to_a_single_file_too(turbo: BaseWeights, tmp_path: Path) -> None:
    """Which has q, k and v as one layer."""
    split = recognize(make_split(turbo.path, tmp_path / "models", name="z_image_turbo"))
    path = write_adapter(tmp_path / "adapter.safetensors")
    found, expected = (
        read_component(with_training_adapter(weights, path), "transformer", torch.bfloat16)
        for weights in (split, turbo)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_published_adapter_has_such_names(turbo: BaseWeights, tmp_path: Path) -> None:
    lines = (
        (Path(__file__).parent / "published" / "zimage_training_adapter.txt").read_text(encoding="ascii").splitlines()
    )
    shapes = {key: (int(rows), int(columns)) for key, rows, columns in map(str.split, lines[2:])}
    added = with_training_adapter(turbo, write_header(tmp_path / "adapter.safetensors", shapes)).added
    assert added is not None and {pair.scale for pair in added.pairs} == {1.0}
    layers = [f"layers.23.attention.{layer}.weight" for layer in ("to_k", "to_out.0", "to_q", "to_v")]
    assert [pair.weight for pair in added.pairs] == layers


def test_turbo_needs_it_and_the_base_does_not(turbo: BaseWeights, tmp_path: Path) -> None:
    base = recognize(make_model(tmp_path / "base"))
    assert with_training_adapter(base, None) is base
    with pytest.raises(ModelError, match="model_turbo_adapter") as caught:
        with_training_adapter(turbo, None)
    assert caught.value.fields["base"] == "Z-Image"
    with pytest.raises(ModelError, match="training_adapter_unneeded"):
        with_training_adapter(base, write_adapter(tmp_path / "adapter.safetensors"))


def test_another_file_is_refused(turbo: BaseWeights, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="training_adapter_missing"):
        with_training_adapter(turbo, tmp_path / "none.safetensors")
    of_krea = {f"diffusion_model.blocks.0.attn.wq.lora_{letter}.weight": torch.ones(2, 2) for letter in "AB"}
    save_file(of_krea, tmp_path / "krea.safetensors")
    with pytest.raises(ModelError, match="tool_other_family"):
        with_training_adapter(turbo, tmp_path / "krea.safetensors")


@pytest.mark.parametrize("extra", ["hada_w1_a", "lora_A.weight", "dora_scale", "x"])
def test_what_is_no_pair_of_a_layer_is_refused(turbo: BaseWeights, tmp_path: Path, extra: str) -> None:
    path = write_adapter(tmp_path / "adapter.safetensors")
    layer = "layers.0.attention.to_q" if extra == "dora_scale" else "layers.0.feed_forward.w1"
    save_file({**load_file(path), f"diffusion_model.{layer}.{extra}": torch.ones(2, 32)}, path)
    with pytest.raises(ModelError, match="training_adapter_layers"):
        with_training_adapter(turbo, path)
