"""A Krea 2 of the libraries' own classes, small enough for every test: a diffusers folder that its pipeline loads, and
the same in ComfyUI's files."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLModel

from lorasmith.demo import layouts
from lorasmith.families.headers import read_json
from lorasmith.families.krea2.text import TEMPLATE
from lorasmith.families.weights import CONFIGS_KEY
from tests.families.made_once import made_once
from tests.families.qwen_miniature import fill, original_vae_name, write_tokenizer

TAPS = (1, 2, 4)
DENOISER = {
    "in_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "timestep_embed_dim": 32,
    "text_hidden_dim": 24,
    "num_text_layers": len(TAPS),
    "text_num_attention_heads": 2,
    "text_num_key_value_heads": 2,
    "text_intermediate_size": 48,
    "num_layerwise_text_blocks": 1,
    "num_refiner_text_blocks": 1,
    "axes_dims_rope": [4, 6, 6],
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
    "text_config": {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [2, 1, 1]},
    },
    "vision_config": {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 24,
        "deepstack_visual_indexes": [0],
    },
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 6400,
}


@made_once
def make_model(folder: Path, **index: Any) -> Path:
    """Writes the folder with random weights and returns it; `index` adds to `model_index.json`."""
    from diffusers import AutoencoderKLQwenImage, Krea2Transformer2DModel

    vocabulary = write_tokenizer(folder / "tokenizer", TEMPLATE.before + TEMPLATE.after)
    language = {**TEXT["text_config"], "vocab_size": vocabulary}
    text = Qwen3VLModel(Qwen3VLConfig(text_config=language, vision_config=TEXT["vision_config"]))
    parts = {
        "transformer": (Krea2Transformer2DModel(**DENOISER), "diffusion_pytorch_model"),
        "vae": (AutoencoderKLQwenImage(**VAE), "diffusion_pytorch_model"),
        "text_encoder": (text, "model"),
    }
    for component, (module, stem) in parts.items():
        (folder / component).mkdir()
        fill(module)
        types = torch.bfloat16 if component == "text_encoder" else torch.float32
        tensors = {name: tensor.to(types).contiguous() for name, tensor in module.state_dict().items()}
        save_file(tensors, folder / component / f"{stem}.safetensors", {"format": "pt"})
        if component == "text_encoder":
            module.config.save_pretrained(folder / component)
        else:
            module.save_config(folder / component)
    (folder / "scheduler").mkdir()
    layouts.write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    layouts.write_json(
        folder / "model_index.json",
        {
            "_class_name": "Krea2Pipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "vae": ["diffusers", "AutoencoderKLQwenImage"],
            "text_encoder": ["transformers", "Qwen3VLModel"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "Krea2Transformer2DModel"],
            "text_encoder_select_layers": list(TAPS),
            "is_distilled": False,
            "patch_size": 2,
            **index,
        },
    )
    return folder


def make_split(folder: Path, models: Path, *, prefix: str = "model.diffusion_model.", name: str = "krea2_raw") -> Path:
    """The same model in ComfyUI's files and folders under `models`; the denoiser's file, in native names."""
    parts = {component: _tensors(folder, component) for component in ("transformer", "vae", "text_encoder")}
    denoiser = {prefix + native_name(key): tensor for key, tensor in parts["transformer"].items()}
    denoiser = {key: tensor.flatten() if key.endswith(".mod.lin") else tensor for key, tensor in denoiser.items()}
    vae = {original_vae_name(key, VAE["num_res_blocks"]): tensor for key, tensor in parts["vae"].items()}
    text = {f"model.{key}": tensor for key, tensor in parts["text_encoder"].items()}
    saved = {
        models / "diffusion_models" / f"{name}.safetensors": denoiser,
        models / "vae" / "qwen_image_vae.safetensors": vae,
        models / "text_encoders" / "qwen3vl_4b.safetensors": text,
    }
    for path, tensors in saved.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        is_denoiser = path.parent.name == "diffusion_models"
        save_file(tensors, path, {CONFIGS_KEY: json.dumps(described(folder))} if is_denoiser else None)
    return models / "diffusion_models" / f"{name}.safetensors"


def described(folder: Path) -> dict[str, Any]:
    """What a single file of it has to state, as shapes do not tell it: it is of no published form."""
    files = {file.name: file.read_text(encoding="utf-8") for file in sorted((folder / "tokenizer").iterdir())}
    configs = {part: read_json(folder / part / "config.json") for part in ("transformer", "vae", "text_encoder")}
    return {**configs, "pipeline": read_json(folder / "model_index.json"), "tokenizer": files}


def _tensors(folder: Path, component: str) -> dict[str, torch.Tensor]:
    (file,) = (folder / component).glob("*.safetensors")
    return load_file(file)


def native_name(name: str) -> str:
    """The denoiser's name in the published checkpoint."""
    for old, new in _NATIVE.items():
        name = name.replace(old, new)
    return name


_NATIVE = {
    "transformer_blocks.": "blocks.",
    "text_fusion.": "txtfusion.",
    "img_in.": "first.",
    "time_embed.linear_1": "tmlp.0",
    "time_embed.linear_2": "tmlp.2",
    "time_mod_proj.": "tproj.1.",
    "txt_in.norm.weight": "txtmlp.0.scale",
    "txt_in.linear_1": "txtmlp.1",
    "txt_in.linear_2": "txtmlp.3",
    "final_layer.linear": "last.linear",
    "final_layer.norm.weight": "last.norm.scale",
    "final_layer.scale_shift_table": "last.modulation.lin",
    ".scale_shift_table": ".mod.lin",
    ".attn.to_gate": ".attn.gate",
    ".attn.to_out.0": ".attn.wo",
    ".attn.to_": ".attn.w",
    ".attn.norm_q.weight": ".attn.qknorm.qnorm.scale",
    ".attn.norm_k.weight": ".attn.qknorm.knorm.scale",
    ".ff.": ".mlp.",
    ".norm1.weight": ".prenorm.scale",
    ".norm2.weight": ".postnorm.scale",
}
