"""Small LoRA files of SD 1.x's layers, in the form of sd-scripts."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tests.lora_files.written import saved

LAYERS = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (320, 320),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k": (1280, 1280),
    "lora_te_text_model_encoder_layers_0_mlp_fc1": (3072, 768),
}
METADATA = {"ss_base_model_version": "sd_v1", "ss_network_module": "networks.lora"}


def tensors_of(*, rank: int = 2, alpha: float | None = 1.0, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (outputs, inputs) in LAYERS.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, inputs, generator=generator)
        tensors[f"{name}.lora_up.weight"] = torch.randn(outputs, rank, generator=generator) * 0.1
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def write(path: Path, tensors: Mapping[str, Tensor] | None = None, metadata: Mapping[str, str] = METADATA) -> Path:
    return saved(tensors_of() if tensors is None else tensors, path, metadata)
