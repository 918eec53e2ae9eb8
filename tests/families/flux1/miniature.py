"""A FLUX.1 dev of the libraries' own classes, small enough for every test: a diffusers folder for its pipeline.

The vocabularies of CLIP and T5 are the real ones.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from lorasmith.demo import layouts
from lorasmith.exporting.formats import parse_native
from lorasmith.families.clip_bpe import clip_tokenizer_files, tokenizer_config
from lorasmith.families.flux1.layout import native_names
from lorasmith.families.headers import read_json
from lorasmith.families.t5_vocabulary import t5_tokenizer_files
from lorasmith.families.weights import CONFIGS_KEY
from tests.families.made_once import made_once
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


@made_once
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


def make_split(folder: Path, models: Path, *, prefix: str = "model.diffusion_model.", name: str = "flux1-dev") -> Path:
    """The same model in ComfyUI's files and folders under `models`; the denoiser's file, in native names."""
    components = ("transformer", "vae", "text_encoder", "text_encoder_2")
    parts = {part: _tensors(folder, part) for part in components}
    denoiser = {prefix + key: tensor for key, tensor in native_tensors(parts["transformer"]).items()}
    clip = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in parts["text_encoder"].items()}
    saved = {
        models / "diffusion_models" / f"{name}.safetensors": denoiser,
        models / "vae" / "ae.safetensors": {_vae_name(key): _as_file(key, one) for key, one in parts["vae"].items()},
        models / "text_encoders" / "clip_l.safetensors": clip,
        models / "text_encoders" / "t5xxl_fp16.safetensors": parts["text_encoder_2"],
    }
    for path, tensors in saved.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {key: tensor.contiguous() for key, tensor in tensors.items()}
        is_denoiser = path.parent.name == "diffusion_models"
        configs = {part: read_json(folder / part / "config.json") for part in components}
        save_file(plain, path, {CONFIGS_KEY: json.dumps(configs)} if is_denoiser else None)
    return models / "diffusion_models" / f"{name}.safetensors"


def native_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The denoiser in the names of the published checkpoint, which has layers of the same input as one, and the halves
    of the last modulation the other way round."""
    native, found = parse_native(native_names()), {}
    for key, tensor in tensors.items():
        path, _, kind = key.rpartition(".")
        place = native.get(f"denoiser.{path}")
        if key.startswith("norm_out."):
            found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat(tensor.chunk(2)[::-1])
        elif place is None:
            found[_norm(key)] = tensor
        elif place.part is None:
            found[f"{place.path}.{kind}"] = tensor
        elif place.part.start == 0:
            same = [name for name, other in native.items() if other.path == place.path]
            parts = [tensors[f"{name.removeprefix('denoiser.')}.{kind}"] for name in same]
            found[f"{place.path}.{kind}"] = torch.cat(parts)
    return found


def _norm(name: str) -> str:
    stream = "txt_" if "_added_" in name else "img_" if name.startswith("transformer_blocks.") else ""
    which = "query" if name.endswith("_q.weight") else "key"
    block = name.partition(".attn.")[0].replace("single_transformer_blocks", "single_blocks")
    block = block.replace("transformer_blocks", "double_blocks")
    return f"{block}.{stream}attn.norm.{which}_norm.scale" if stream else f"{block}.norm.{which}_norm.scale"


def _vae_name(name: str) -> str:
    return layouts.ldm_vae_name(name, VAE)


def _as_file(name: str, tensor: Tensor) -> Tensor:
    """Attention has 1x1 convolutions there."""
    return tensor[..., None, None] if ".attn_1." in _vae_name(name) and tensor.ndim == 2 else tensor


def _tensors(folder: Path, component: str) -> dict[str, Tensor]:
    (file,) = (folder / component).glob("*.safetensors")
    return load_file(file)
