import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lorasmith.config import RunConfig
from lorasmith.families.stored_tensors import read_component
from lorasmith.inputs import base_weights
from lorasmith.session.base_weights import FOLDER, sources_of, trained_on
from tests.end_to_end.workshop import Workshop
from tests.families.flux1.miniature import make_model, make_split
from tests.lora_files.written import saved
from tests.lora_tools.flow import FlowMade, lora, with_clip


def test_multipliers_follow_the_order_of_the_files() -> None:
    config = RunConfig().with_values(
        {("model", "base_weights"): ("a", "b", "c"), ("model", "base_weights_multiplier"): (0.5, -1.0)}
    )
    assert [(str(source.path), source.weight) for source in sources_of(config)] == [("a", 0.5), ("b", -1.0), ("c", 1.0)]


@pytest.mark.ci
def test_a_denoiser_without_its_text_encoders_is_merged_alone(tmp_path: Path) -> None:
    """The sum in the cache still belongs to the text encoders and the VAE beside the base model, and to its name.

    Layers of CLIP are left out, as CLIP is not in the file."""
    base = make_split(make_model(tmp_path / "model"), tmp_path / "models")
    flow = FlowMade("flux1", tmp_path / "model", base)
    lora(flow, tmp_path / "lora.safetensors", "kohya")
    tensors = with_clip(safetensors.torch.load_file(tmp_path / "lora.safetensors"), tmp_path / "model")
    saved(tensors, tmp_path / "lora.safetensors")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    config = RunConfig().with_values(
        {
            ("model", "base_model"): str(base),
            ("model", "base_weights"): (str(tmp_path / "lora.safetensors"),),
            ("dataset", "folder"): str(pictures),
        }
    )
    plain, merged = base_weights(config), trained_on(config)
    assert merged.path.parent.name == FOLDER and merged.assumed == plain.assumed == ""
    assert {name: part.asked for name, part in merged.replaced.items()} == {
        name: part.asked for name, part in plain.replaced.items()
    }
    tensors = read_component(merged, "transformer", torch.float32)
    changed = {name for name, weight in read_component(plain, "transformer", torch.float32).items()
               if not torch.equal(weight, tensors[name])}  # fmt: skip
    assert "single_transformer_blocks.1.proj_mlp.weight" in changed
    assert not any("norm_out" in name for name in changed)


def test_a_model_that_was_merged_is_used_again(workshop: Workshop) -> None:
    """Until the LoRA has other bytes."""
    workshop.new(1, {("adapter", "rank"): 2})
    lora = Path(shutil.copy(workshop.run.export("last"), workshop.folder / "a.safetensors"))
    config = workshop.start_new(1, {("model", "base_weights"): (str(lora),)}).config
    first = trained_on(config).path
    assert first.parent.name == FOLDER
    (first / "seen before").touch()
    assert trained_on(config).path == first
    workshop.go_on(1)
    shutil.copy(workshop.run.export("last"), lora)
    assert trained_on(config).path != first
