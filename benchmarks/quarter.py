"""A random model of flow matching with the published widths and a part of the blocks: a folder for benchmarks.lanes.

    python -m benchmarks.quarter FAMILY FOLDER [--blocks 7]

Only the denoiser has these sizes, in bfloat16: text encoder and VAE are those of the miniature, with the configs of the
published ones, so that a run's arithmetic sees a whole model. Nothing can be encoded with it. Without --blocks it has a
quarter of them.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorasmith.families.base import ModelFamily

TILE = 1 << 24  # random numbers, over and over


@dataclass(frozen=True)
class Published:
    """A published model: what its configs have that the miniature's have not."""

    transformer: str  # its class in diffusers
    blocks: Mapping[str, int]  # settings of its config -> published number of blocks
    configs: Mapping[str, Mapping[str, Any]]  # by file in the folder
    row: Callable[[ModelFamily, int, int], Mapping[str, Tensor]]
    """(family, pixels on a side, tokens of text) -> the inputs of an example, at random."""
    config: Mapping[str, Any] = field(default_factory=dict)  # of the denoiser, beside the defaults of its class


def _krea2_row(family: ModelFamily, side: int, words: int) -> Mapping[str, Tensor]:
    config = family.weights.configs["transformer"]
    shape = words, config["num_text_layers"], config["text_hidden_dim"]
    return {"latents": torch.randn(16, side // 8, side // 8), "prompt_embeds": torch.randn(shape).bfloat16()}


def _text_row(channels: int, factor: int, width: int) -> Callable[[ModelFamily, int, int], Mapping[str, Tensor]]:
    """Of families that take a single state of their text encoder."""

    def row(family: ModelFamily, side: int, words: int) -> Mapping[str, Tensor]:  # noqa: ARG001
        latents = torch.randn(channels, side // factor, side // factor)
        return {"latents": latents, "prompt_embeds": torch.randn(words, width).bfloat16()}

    return row


def _klein_row(family: ModelFamily, side: int, words: int) -> Mapping[str, Tensor]:  # noqa: ARG001  padded, and attended
    latents = torch.randn(128, side // 16, side // 16)
    return {"latents": latents, "prompt_embeds": torch.randn(512, 7680).bfloat16()}


def _flux1_row(family: ModelFamily, side: int, words: int) -> Mapping[str, Tensor]:  # noqa: ARG001  padded, and attended
    texts = {"prompt_embeds": torch.randn(512, 4096).bfloat16(), "pooled_prompt_embeds": torch.randn(768).bfloat16()}
    return {"latents": torch.randn(16, side // 8, side // 8), **texts}


_QWEN_VAE = {"z_dim": 16, "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
MODELS: Mapping[str, Published] = {
    "krea2": Published(
        "Krea2Transformer2DModel",
        {"num_layers": 28},
        {
            "vae/config.json": _QWEN_VAE,
            "text_encoder/config.json": {
                "text_config": {
                    "hidden_size": 2560,
                    "num_hidden_layers": 36,
                    "num_attention_heads": 32,
                    "num_key_value_heads": 8,
                    "head_dim": 128,
                    "intermediate_size": 9728,
                    "vocab_size": 151_936,
                }
            },
            "model_index.json": {"text_encoder_select_layers": list(range(2, 36, 3))},
        },
        _krea2_row,
    ),
    "zimage": Published(
        "ZImageTransformer2DModel",
        {"n_layers": 30},
        {
            "vae/config.json": {"latent_channels": 16},
            "text_encoder/config.json": {
                "hidden_size": 2560,
                "num_hidden_layers": 36,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "intermediate_size": 9728,
                "vocab_size": 151_936,
            },
        },
        _text_row(16, 8, 2560),
    ),
    "anima": Published(
        "CosmosTransformer3DModel",
        {"num_layers": 28},
        {
            "vae/config.json": _QWEN_VAE,
            "text_conditioner/config.json": {"source_dim": 1024, "target_dim": 1024, "model_dim": 1024},
            "text_encoder/config.json": {
                "hidden_size": 1024,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "intermediate_size": 3072,
                "vocab_size": 151_936,
            },
        },
        _text_row(16, 8, 1024),
        {
            "in_channels": 16,
            "out_channels": 16,
            "num_attention_heads": 16,
            "attention_head_dim": 128,
            "text_embed_dim": 1024,
            "adaln_lora_dim": 256,
            "max_size": [128, 240, 240],
            "extra_pos_embed_type": None,
        },
    ),
    "qwen_image21": Published(
        "QwenImage21Transformer2DModel",
        {"num_layers": 32},
        {
            "vae/config.json": {"z_dim": 64, "latents_mean": [0.0] * 64, "latents_std": [1.0] * 64},
            "text_encoder/config.json": {
                "text_config": {
                    "hidden_size": 4096,
                    "num_hidden_layers": 36,
                    "num_attention_heads": 32,
                    "num_key_value_heads": 8,
                    "head_dim": 128,
                    "intermediate_size": 12_288,
                    "vocab_size": 151_936,
                }
            },
        },
        _text_row(64, 16, 4096),
    ),
    "flux2_klein": Published(  # 4B
        "Flux2Transformer2DModel",
        {"num_layers": 5, "num_single_layers": 20},
        {
            "vae/config.json": {"latent_channels": 32},
            "text_encoder/config.json": {
                "hidden_size": 2560,
                "num_hidden_layers": 36,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "intermediate_size": 9728,
                "vocab_size": 151_936,
            },
        },
        _klein_row,
        {"num_attention_heads": 24, "joint_attention_dim": 7680, "guidance_embeds": False},
    ),
    "flux1": Published(  # dev
        "FluxTransformer2DModel",
        {"num_layers": 19, "num_single_layers": 38},
        {
            "vae/config.json": {"latent_channels": 16},
            "text_encoder/config.json": {
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "vocab_size": 49_408,
            },
            "text_encoder_2/config.json": {
                "d_model": 4096,
                "d_ff": 10_240,
                "d_kv": 64,
                "num_heads": 64,
                "num_layers": 24,
                "vocab_size": 32_128,
            },
        },
        _flux1_row,
        {"guidance_embeds": True},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quarter", description=__doc__)
    parser.add_argument("family", choices=list(MODELS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, help="of each kind; a quarter of the published without it")
    asked = parser.parse_args()
    make(asked.family, asked.folder, asked.blocks)


def make(name: str, folder: Path, blocks: int | None = None) -> None:
    """Writes the folder; with 0 blocks the published number, and a denoiser of zeros that takes no space on a disk."""
    import diffusers

    from tests.families.tiny import MINIATURES

    model = MODELS[name]
    MINIATURES[name](folder)
    for file, changes in model.configs.items():
        path = folder / file
        path.write_text(json.dumps(_merged(json.loads(path.read_text(encoding="utf-8")), changes)), encoding="utf-8")
    counts = {key: count if blocks == 0 else blocks or count // 4 for key, count in model.blocks.items()}
    with torch.device("meta"):
        denoiser = getattr(diffusers, model.transformer)(**{**model.config, **counts})
    denoiser.save_config(folder / "transformer")
    shapes = {key: tuple(tensor.shape) for key, tensor in denoiser.state_dict().items()}
    _write(folder / "transformer" / "diffusion_pytorch_model.safetensors", shapes, is_empty=blocks == 0)
    print(f"{sum(map(prod, shapes.values())) / 1e9:.3f} billion parameters in {folder}")


def _merged(old: Any, changes: Any) -> Any:
    if not isinstance(changes, dict):
        return changes
    return {**old, **{name: _merged(old.get(name, {}), value) for name, value in changes.items()}}


def _write(file: Path, shapes: Mapping[str, tuple[int, ...]], *, is_empty: bool) -> None:
    entries, place = {}, 0
    for name, shape in shapes.items():
        size = 2 * prod(shape)
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    header = json.dumps(entries).encode()
    numbers = np.random.default_rng(0).normal(0, 0.02, TILE).astype(np.float32)
    tile = (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        if is_empty:
            out.truncate(8 + len(header) + place)
            return
        while place > 0:
            out.write(tile[:place])
            place -= len(tile)


if __name__ == "__main__":
    main()
