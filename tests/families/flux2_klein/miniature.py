"""A FLUX.2 klein of the libraries' own classes, small enough for every test: a diffusers folder for its pipeline."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from lorasmith.demo import layouts
from lorasmith.families.flux2_klein.text import TEMPLATE
from lorasmith.families.headers import read_json
from lorasmith.families.weights import CONFIGS_KEY
from tests.families.made_once import made_once
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


@made_once
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


def make_split(
    folder: Path, models: Path, *, prefix: str = "model.diffusion_model.", name: str = "flux-2-klein-base-4b"
) -> Path:
    """The same model in ComfyUI's files and folders under `models`; the denoiser's file, in native names."""
    parts = {part: _tensors(folder, part) for part in ("transformer", "vae", "text_encoder")}
    vae = {original_vae_name(key): _as_file(key, tensor) for key, tensor in parts["vae"].items()}
    denoiser = {prefix + key: tensor for key, tensor in native_tensors(parts["transformer"]).items()}
    saved = {
        models / "diffusion_models" / f"{name}.safetensors": denoiser,
        models / "vae" / "flux2-vae.safetensors": vae,
        models / "text_encoders" / "qwen_3_4b.safetensors": parts["text_encoder"],
    }
    for path, tensors in saved.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {key: tensor.contiguous() for key, tensor in tensors.items()}
        is_denoiser = path.parent.name == "diffusion_models"
        save_file(plain, path, {CONFIGS_KEY: json.dumps(described(folder))} if is_denoiser else None)
    return models / "diffusion_models" / f"{name}.safetensors"


def described(folder: Path) -> dict[str, Any]:
    """What a single file of it has to state, as shapes do not tell it: it is of no published form."""
    files = {file.name: file.read_text(encoding="utf-8") for file in sorted((folder / "tokenizer").iterdir())}
    configs = {part: read_json(folder / part / "config.json") for part in ("transformer", "vae", "text_encoder")}
    return {**configs, "tokenizer": files}


def native_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The denoiser in the names of the published checkpoint, which has q, k and v as one layer, and the halves of the
    last modulation the other way round."""
    found = {}
    for key, tensor in tensors.items():
        stem, _, layer = key.removesuffix(".weight").rpartition(".")
        if layer in ("to_q", "add_q_proj"):
            others = [layer.replace("q", letter) for letter in "qkv"]
            joined = torch.cat([tensors[f"{stem}.{other}.weight"] for other in others])
            found[_native(f"{stem}.qkv_{layer}.weight")] = joined
        elif layer not in ("to_k", "to_v", "add_k_proj", "add_v_proj"):
            is_swapped = key == "norm_out.linear.weight"
            found[_native(key)] = torch.cat(tensor.chunk(2)[::-1]) if is_swapped else tensor
    return found


def _native(name: str) -> str:
    for letter, word in (("q", "query"), ("k", "key")):
        place = "norm" if name.startswith("single") else "img_attn.norm"
        name = name.replace(f"attn.norm_{letter}.weight", f"{place}.{word}_norm.scale")
    for old, new in _NATIVE.items():
        name = name.replace(old, new)
    return name


_NATIVE = {
    "single_transformer_blocks.": "single_blocks.",
    "transformer_blocks.": "double_blocks.",
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_out": "linear2",
    "attn.to_add_out": "txt_attn.proj",
    "attn.qkv_to_q": "img_attn.qkv",
    "attn.qkv_add_q_proj": "txt_attn.qkv",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "modulation_img.linear": "modulation_img.lin",
    "modulation_txt.linear": "modulation_txt.lin",
    "single_stream_modulation.linear": "single_stream_modulation.lin",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}


def original_vae_name(name: str) -> str:
    """The VAE's name in the published checkpoint."""
    inside = {"quant_conv.": "encoder.quant_conv.", "post_quant_conv.": "decoder.post_quant_conv."}
    for old, new in inside.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return layouts.ldm_vae_name(name, VAE) if not name.startswith("bn.") else name


def _as_file(name: str, tensor: Tensor) -> Tensor:
    """Attention has 1x1 convolutions there."""
    return tensor[..., None, None] if ".attn_1." in original_vae_name(name) and tensor.ndim == 2 else tensor


def _tensors(folder: Path, component: str) -> dict[str, Tensor]:
    (file,) = (folder / component).glob("*.safetensors")
    return load_file(file)
