"""An Anima of the libraries' own classes, small enough for every test: a folder as diffusers saves its pipeline.

T5's vocabulary is the real one, and the layers have the proportions of the published ones.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3Model

from lorasmith.demo import layouts
from lorasmith.families.headers import read_json
from lorasmith.families.t5_vocabulary import t5_tokenizer_files
from lorasmith.families.weights import CONFIGS_KEY
from tests.families.made_once import made_once
from tests.families.qwen_miniature import fill, original_vae_name, write_tokenizer

WORDS = "a red circle, a blue ring, green, black, white"
DENOISER: dict[str, Any] = {
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


@made_once
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


def make_split(folder: Path, models: Path, *, prefix: str = "net.", name: str = "anima") -> Path:
    """The same model in ComfyUI's files and folders under `models`; the denoiser's file, in native names."""
    parts = {part: _tensors(folder, part) for part in ("transformer", "text_conditioner", "vae", "text_encoder")}
    denoiser = {prefix + native_name(key): tensor for key, tensor in parts["transformer"].items()}
    denoiser |= {f"{prefix}llm_adapter.{key}": tensor for key, tensor in parts["text_conditioner"].items()}
    denoiser[f"{prefix}pos_embedder.seq"] = torch.arange(4.0)
    vae = {original_vae_name(key, VAE["num_res_blocks"]): tensor for key, tensor in parts["vae"].items()}
    text = {f"model.{key}": tensor for key, tensor in parts["text_encoder"].items()}
    saved = {
        models / "diffusion_models" / f"{name}.safetensors": denoiser,
        models / "vae" / "qwen_image_vae.safetensors": vae,
        models / "text_encoders" / "qwen_3_06b_base.safetensors": text,
    }
    for path, tensors in saved.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        is_denoiser = path.parent.name == "diffusion_models"
        save_file(tensors, path, {CONFIGS_KEY: json.dumps(_described(folder))} if is_denoiser else None)
    return models / "diffusion_models" / f"{name}.safetensors"


def native_name(name: str) -> str:
    """The denoiser's name in the published checkpoint."""
    for old, new in _NATIVE.items():
        name = name.replace(old, new)
    return name


def _described(folder: Path) -> dict[str, Any]:
    """What a single file of it has to state, as shapes do not tell it: it is of no published form."""
    files = {file.name: file.read_text(encoding="utf-8") for file in sorted((folder / "tokenizer").iterdir())}
    components = ("transformer", "text_conditioner", "vae", "text_encoder")
    return {**{part: read_json(folder / part / "config.json") for part in components}, "tokenizer": files}


def _tensors(folder: Path, component: str) -> dict[str, torch.Tensor]:
    (file,) = (folder / component).glob("*.safetensors")
    return load_file(file)


_NATIVE = {
    "transformer_blocks.": "blocks.",
    "patch_embed.proj.": "x_embedder.proj.1.",
    "time_embed.t_embedder.": "t_embedder.1.",
    "time_embed.norm.": "t_embedding_norm.",
    "norm_out.linear_": "final_layer.adaln_modulation.",
    "proj_out.": "final_layer.linear.",
    "norm1.linear_": "adaln_modulation_self_attn.",
    "norm2.linear_": "adaln_modulation_cross_attn.",
    "norm3.linear_": "adaln_modulation_mlp.",
    ".norm_q.": ".q_norm.",
    ".norm_k.": ".k_norm.",
    ".to_out.0.": ".output_proj.",
    ".to_q.": ".q_proj.",
    ".to_k.": ".k_proj.",
    ".to_v.": ".v_proj.",
    "attn1.": "self_attn.",
    "attn2.": "cross_attn.",
    "ff.net.0.proj.": "mlp.layer1.",
    "ff.net.2.": "mlp.layer2.",
}
