"""A FLUX.1 dev of the libraries' own classes, small enough for every test: a diffusers folder for its pipeline.

The vocabularies of CLIP and T5 are the real ones.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lorasmith.demo import layouts
from lorasmith.families.clip_bpe import clip_tokenizer_files, tokenizer_config
from lorasmith.families.t5_vocabulary import t5_tokenizer_files
from tests.families.qwen_miniature import fill

WIDTH, POOLED = 24, 16
DENOISER = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": WIDTH,
    "pooled_projection_dim": POOLED,
    "guidance_embeds": True,
    "axes_dims_rope": [4, 6, 6],
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [4, 4, 4, 4],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
CLIP = {
    "hidden_size": POOLED,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 49_408,
    "max_position_embeddings": 77,
    "projection_dim": POOLED,
    "eos_token_id": 2,
}
T5 = {
    "d_model": WIDTH,
    "d_ff": 48,
    "d_kv": 8,
    "num_heads": 3,
    "num_layers": 2,
    "vocab_size": 32_128,
    "feed_forward_proj": "gated-gelu",
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift": 3.0,
}


def make_model(folder: Path, **denoiser: Any) -> Path:
    """Writes the folder with random weights and returns it; `denoiser` adds to the transformer's config."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel

    folder.mkdir()
    parts = {
        "transformer": (FluxTransformer2DModel(**{**DENOISER, **denoiser}), "diffusion_pytorch_model"),
        "vae": (AutoencoderKL(**VAE), "diffusion_pytorch_model"),
        "text_encoder": (CLIPTextModel(CLIPTextConfig(**CLIP)), "model"),
        "text_encoder_2": (T5EncoderModel(T5Config(**T5)), "model"),
    }
    for component, (module, stem) in parts.items():
        (folder / component).mkdir()
        fill(module)
        types = torch.bfloat16 if component.startswith("text") else torch.float32
        tensors = {name: tensor.to(types).contiguous() for name, tensor in module.state_dict().items()}
        tensors.pop("encoder.embed_tokens.weight", None)  # the same as shared.weight
        save_file(tensors, folder / component / f"{stem}.safetensors", {"format": "pt"})
        if component.startswith("text"):
            module.config.save_pretrained(folder / component)
        else:
            module.save_config(folder / component)
    clip_files = {"tokenizer_config.json": tokenizer_config(), **clip_tokenizer_files()}
    for name, files in {"tokenizer": clip_files, "tokenizer_2": t5_tokenizer_files()}.items():
        (folder / name).mkdir()
        for file, text in files.items():
            (folder / name / file).write_text(text, encoding="utf-8")
    (folder / "scheduler").mkdir()
    layouts.write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    layouts.write_json(
        folder / "model_index.json",
        {
            "_class_name": "FluxPipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "text_encoder_2": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "T5TokenizerFast"],
            "transformer": ["diffusers", "FluxTransformer2DModel"],
        },
    )
    return folder
