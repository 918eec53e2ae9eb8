"""Weights of base models, and new models tensor by tensor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from lorasmith.demo.miniature import to_single_file
from lorasmith.errors import ModelError
from lorasmith.lora_files.names import layers_of
from lorasmith.lora_tools.arrays import Array
from lorasmith.lora_tools.models import open_model, write_changed
from lorasmith.lora_tools.regroup import parts_of
from tests.lora_tools.conftest import Made
from tests.lora_tools.flow import FlowMade


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_weights_are_those_that_training_reads(made: Made, layout: str) -> None:
    model = open_model(getattr(made, layout))
    expected = made.weights()
    assert model.family == made.family and model.places.keys() <= expected.keys()
    assert {"attn1", "mlp"} <= {part for target in model.places for part in target.split(".")}
    for target in model.places:
        assert np.array_equal(model.read(target), expected[target].numpy())


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_nothing_changed_is_the_same_model(made: Made, tmp_path: Path, layout: str) -> None:
    source = getattr(made, layout)
    out = write_changed(open_model(source), tmp_path / "out.safetensors", {})
    if layout == "file":
        with safe_open(source, "pt") as old, safe_open(out, "pt") as new:
            assert old.keys() == new.keys() and old.metadata() == new.metadata()
            assert all(torch.equal(old.get_tensor(name), new.get_tensor(name)) for name in old.keys())  # noqa: SIM118
        return
    files = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    found = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files.keys() == found.keys()
    assert all(found[path] == content for path, content in files.items() if path.suffix != ".safetensors")


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_a_part_of_a_fused_or_turned_tensor_is_changed_alone(made: Made, tmp_path: Path, layout: str) -> None:
    part = "text_encoder_2" if made.family == "sdxl" else "text_encoder"
    targets = [f"{part}.text_model.encoder.layers.0.self_attn.k_proj", f"{part}.text_model.encoder.layers.0.mlp.fc1"]
    out = write_changed(
        open_model(getattr(made, layout)), tmp_path / "out", dict.fromkeys(targets, lambda old: old + 1)
    )
    before, after = made.weights(), made.weights(out)
    assert before.keys() == after.keys()
    changed = {target for target in before if not torch.equal(before[target], after[target])}
    assert changed == set(targets)
    for target in targets:
        assert torch.equal(after[target], (before[target] + 1).half().float())


def test_other_forms_of_the_same_weights_are_left_out(made: Made, tmp_path: Path) -> None:
    (made.folder / "unet" / "old.bin").write_bytes(b"x")
    try:
        out = write_changed(open_model(made.folder), tmp_path / "out", {})
    finally:
        (made.folder / "unet" / "old.bin").unlink()
    assert not (out / "unet" / "old.bin").exists() and (out / "vae").is_dir()


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_a_change_that_fails_leaves_nothing(made: Made, tmp_path: Path, layout: str) -> None:
    model = open_model(getattr(made, layout))
    target = sorted(model.places)[-1]

    def fails(_old: Array) -> Array:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_changed(model, tmp_path / "out", {target: fails})
    with pytest.raises(ModelError, match="tool_not_finite"):
        write_changed(model, tmp_path / "out", {target: lambda old: old + 1e6})  # too large for half precision
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_in_safetensors(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tool_no_model"):
        open_model(tmp_path / "none")
    to_single_file(made.folder, tmp_path / "old.ckpt", with_configs=False)
    with pytest.raises(ModelError, match="tool_pickle"):
        open_model(tmp_path / "old.ckpt")


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_the_denoiser_of_flow_matching_is_found_without_its_text_encoders(flow: FlowMade, layout: str) -> None:
    model = open_model(getattr(flow, layout))
    assert (model.family, model.prediction) == (flow.family, "flow")
    layers = layers_of(flow.family)
    parts = [part for rows in layers.table.modules.values() for part in parts_of(rows, layers.known.pieces)]
    targets = {part.target for part in parts} & flow.weights.keys()
    of_denoiser = {target for target in model.places if target.startswith("denoiser.")}
    assert targets and targets <= of_denoiser <= flow.weights.keys()
    has_text = flow.family == "flux1" and layout == "folder"  # LoRA files for FLUX.1 may change CLIP
    assert model.components == ({"denoiser", "text_encoder"} if has_text else {"denoiser"})
    for target in of_denoiser:
        shape = flow.weights[target].shape
        assert np.array_equal(model.read(target).reshape(shape), flow.weights[target].float().numpy()), target
