"""What the recognizers of flow matching share; each family tests its own facts and refusals."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorasmith.errors import ModelError
from lorasmith.families.flow_recognition import are_numbers
from lorasmith.families.recognize import recognize
from tests.families.krea2.miniature import make_model


def test_a_lora_in_the_place_of_the_denoiser_is_named(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    tensors = {"transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, 2)}
    save_file(tensors, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ModelError, match="model_is_lora"):
        recognize(folder)


def test_lists_of_numbers() -> None:
    assert are_numbers([1, 2.5])
    assert not any(map(are_numbers, (None, "12", [1, "2"], [True])))
