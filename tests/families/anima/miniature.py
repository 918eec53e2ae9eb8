"""An Anima of the libraries' own classes, small enough for every test: a folder as diffusers saves its pipeline.

T5's vocabulary is the real one, and the layers have the proportions of the published ones.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3Model

from lorasmith.demo import layouts
from lorasmith.families.t5_vocabulary import t5_tokenizer_files
from tests.families.qwen_miniature import fill, write_tokenizer

WORDS = "a red circle, a blue ring, green, black, white"
DENOISER = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "num_layers": 2,
    "mlp_ratio": 4.0,
    "text_embed_dim": 24,
    "adaln_lora_dim": 4,
    "max_size": [4, 64, 64],
    "patch_size": [1, 2, 2],
    "rope_scale": [1.0, 4.0, 4.0],
    "concat_padding_mask": True,
    "extra_pos_embed_type": None,
}
CONDITIONER = {
    "source_dim": 24,
    "target_dim": 24,
    "model_dim": 16,
    "num_layers": 2,
    "num_attention_heads": 2,
    "mlp_ratio": 2.0,
    "target_vocab_size": 32_128,
    "min_sequence_length": 512,
}
VAE = {
    "base_dim": 12,
    "z_dim": 4,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [-0.7, 0.1, 0.4, 1.5],
    "latents_std": [2.8, 1.4, 2.3, 0.8],
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
_PARTS = {
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "t5_tokenizer": "T5Tokenizer",
    "text_conditioner": "AnimaTextConditioner",
    "text_encoder": "Qwen3Model",
    "tokenizer": "Qwen2Tokenizer",
    "transformer": "CosmosTransformer3DModel",
    "vae": "AutoencoderKLQwenImage",
}


def make_model(folder: Path, **denoiser: Any) -> Path:
    """Writes the folder with random weights and returns it; `denoiser` adds to the transformer's config."""
    from diffusers import AnimaTextConditioner, AutoencoderKLQwenImage, CosmosTransformer3DModel

    vocabulary = write_tokenizer(folder / "tokenizer", WORDS)
    parts = {
        "transformer": (CosmosTransformer3DModel(**{**DENOISER, **denoiser}), "diffusion_pytorch_model"),
        "text_conditioner": (AnimaTextConditioner(**CONDITIONER), "diffusion_pytorch_model"),
        "vae": (AutoencoderKLQwenImage(**VAE), "diffusion_pytorch_model"),
        "text_encoder": (Qwen3Model(Qwen3Config(**TEXT, vocab_size=vocabulary)), "model"),
    }
    for component, (module, stem) in parts.items():
        (folder / component).mkdir()
        fill(module)
        types = torch.bfloat16 if component.startswith("text") else torch.float32
        tensors = {name: tensor.to(types).contiguous() for name, tensor in module.state_dict().items()}
        save_file(tensors, folder / component / f"{stem}.safetensors", {"format": "pt"})
        if component == "text_encoder":
            module.config.save_pretrained(folder / component)
        else:
            module.save_config(folder / component)
    for place, files in {"t5_tokenizer": t5_tokenizer_files()}.items():
        (folder / place).mkdir()
        for name, text in files.items():
            (folder / place / name).write_text(text, encoding="utf-8")
    (folder / "scheduler").mkdir()
    layouts.write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    index = {name: [_library(kind), kind, _place(folder, name, kind)] for name, kind in _PARTS.items()}
    layouts.write_json(
        folder / "modular_model_index.json",
        {"_blocks_class_name": "AnimaAutoBlocks", "_class_name": "AnimaModularPipeline", **index},
    )
    return folder


def _library(kind: str) -> str:
    return "transformers" if kind.endswith("Tokenizer") or kind.startswith("Qwen3") else "diffusers"


def _place(folder: Path, name: str, kind: str) -> dict[str, Any]:
    return {
        "pretrained_model_name_or_path": str(folder),
        "subfolder": name,
        "type_hint": [_library(kind), kind],
        "variant": None,
        "revision": None,
    }
