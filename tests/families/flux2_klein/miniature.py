"""A FLUX.2 klein of the libraries' own classes, small enough for every test: a diffusers folder for its pipeline."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from lorasmith.demo import layouts
from lorasmith.families.flux2_klein.text import TEMPLATE
from tests.families.qwen_miniature import fill, write_tokenizer

WIDTH = 16  # of the text encoder
DENOISER = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 3 * WIDTH,
    "timestep_guidance_channels": 32,
    "axes_dims_rope": [4, 4, 4, 4],
    "guidance_embeds": False,
}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [4, 4, 4, 4],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 2,
}
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 28,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
"""What Qwen3's own makes of a message of a user."""


def make_model(folder: Path, **index: Any) -> Path:
    """Writes the folder with random weights and returns it; `index` adds to `model_index.json`."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel

    words = TEMPLATE.before + "a, b, c, d, e, f, g, x x" + TEMPLATE.after
    vocabulary = write_tokenizer(folder / "tokenizer", words, more=("<think>", "</think>"), chat=CHAT_TEMPLATE)
    parts = {
        "transformer": (Flux2Transformer2DModel(**DENOISER), "diffusion_pytorch_model"),
        "vae": (AutoencoderKLFlux2(**VAE), "diffusion_pytorch_model"),
        "text_encoder": (Qwen3ForCausalLM(Qwen3Config(**TEXT, vocab_size=vocabulary)), "model"),
    }
    generator = torch.Generator().manual_seed(2)
    for component, (module, stem) in parts.items():
        (folder / component).mkdir()
        fill(module)
        if component == "vae":
            module.bn.running_mean.copy_(torch.randn(16, generator=generator))
            module.bn.running_var.copy_(torch.rand(16, generator=generator) + 0.5)
        types = torch.bfloat16 if component == "text_encoder" else torch.float32
        tensors = {
            name: (tensor.to(types) if tensor.is_floating_point() else tensor).contiguous()
            for name, tensor in module.state_dict().items()
            if name != "lm_head.weight"
        }
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
            "_class_name": "Flux2KleinPipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "vae": ["diffusers", "AutoencoderKLFlux2"],
            "text_encoder": ["transformers", "Qwen3ForCausalLM"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "Flux2Transformer2DModel"],
            "is_distilled": False,
            **index,
        },
    )
    return folder
