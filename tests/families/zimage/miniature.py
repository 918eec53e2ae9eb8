"""A Z-Image of the libraries' own classes, small enough for every test: a diffusers folder that its pipeline loads, and
the same in ComfyUI's files."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen3Config, Qwen3Model

from lorasmith.demo import layouts
from lorasmith.families.headers import read_json
from lorasmith.families.weights import CONFIGS_KEY
from lorasmith.families.zimage.text import TEMPLATE
from tests.families.made_once import made_once
from tests.families.qwen_miniature import fill, write_tokenizer

DENOISER = {
    "in_channels": 4,
    "dim": 32,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": 24,
    "axes_dims": [8, 4, 4],
    "axes_lens": [256, 128, 128],
}
VAE = {
    "block_out_channels": [4, 8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 64,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": False,
    "shift": 6.0,
}
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""What Qwen3's own template makes of a message without tools."""


@made_once
def make_model(folder: Path, **index: Any) -> Path:
    """Writes the folder with random weights and returns it; `index` adds to `model_index.json`."""
    from diffusers import AutoencoderKL, ZImageTransformer2DModel

    vocabulary = write_tokenizer(folder / "tokenizer", f"{TEMPLATE.before}a, b, c, d, e, f, g{TEMPLATE.after}")
    settings = folder / "tokenizer" / "tokenizer_config.json"
    layouts.write_json(settings, {**json.loads(settings.read_text(encoding="utf-8")), "chat_template": CHAT})
    parts = {
        "transformer": (ZImageTransformer2DModel(**DENOISER), "diffusion_pytorch_model", ""),
        "vae": (AutoencoderKL(**VAE), "diffusion_pytorch_model", ""),
        "text_encoder": (Qwen3Model(Qwen3Config(vocab_size=vocabulary, **TEXT)), "model", "model."),
    }
    for component, (module, stem, prefix) in parts.items():
        (folder / component).mkdir()
        fill(module)
        types = torch.bfloat16 if component == "text_encoder" else torch.float32
        tensors = {prefix + name: tensor.to(types).contiguous() for name, tensor in module.state_dict().items()}
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
            "_class_name": "ZImagePipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "Qwen3Model"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "ZImageTransformer2DModel"],
            **index,
        },
    )
    return folder


def make_split(folder: Path, models: Path, *, prefix: str = "model.diffusion_model.", name: str = "z_image") -> Path:
    """The same model in ComfyUI's files and folders under `models`; the denoiser's file, in native names."""
    parts = {component: _tensors(folder, component) for component in ("transformer", "vae", "text_encoder")}
    denoiser = {prefix + key: tensor for key, tensor in native_tensors(parts["transformer"]).items()}
    saved = {
        models / "diffusion_models" / f"{name}.safetensors": denoiser,
        models / "vae" / "ae.safetensors": {_vae_name(key): _as_file(key, one) for key, one in parts["vae"].items()},
        models / "text_encoders" / "qwen_3_4b.safetensors": parts["text_encoder"],
    }
    for path, tensors in saved.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        is_denoiser = path.parent.name == "diffusion_models"
        plain = {key: tensor.contiguous() for key, tensor in tensors.items()}
        save_file(plain, path, {CONFIGS_KEY: json.dumps(described(folder))} if is_denoiser else None)
    return models / "diffusion_models" / f"{name}.safetensors"


def described(folder: Path) -> dict[str, Any]:
    """What a single file of it has to state, as shapes do not tell it: it is of no published form."""
    files = {file.name: file.read_text(encoding="utf-8") for file in sorted((folder / "tokenizer").iterdir())}
    configs = {part: read_json(folder / part / "config.json") for part in ("transformer", "vae", "text_encoder")}
    return {**configs, "tokenizer": files}


def native_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The denoiser in the names of the published checkpoint, which has q, k and v as one layer."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(".to_q.weight"):
            stem = name.removesuffix("to_q.weight")
            found[f"{stem}qkv.weight"] = torch.cat([tensors[f"{stem}to_{letter}.weight"] for letter in "qkv"])
        elif not name.endswith((".to_k.weight", ".to_v.weight")):
            for ours, theirs in _NATIVE.items():
                name = name.replace(ours, theirs)
            found[name] = tensor
    found["norm_final.weight"] = torch.ones(1)
    return found


_NATIVE = {
    "all_x_embedder.2-1.": "x_embedder.",
    "all_final_layer.2-1.": "final_layer.",
    "attention.to_out.0.": "attention.out.",
    "attention.norm_q.": "attention.q_norm.",
    "attention.norm_k.": "attention.k_norm.",
}


def _vae_name(name: str) -> str:
    return layouts.ldm_vae_name(name, VAE)


def _as_file(name: str, tensor: Tensor) -> Tensor:
    """Attention has 1x1 convolutions there."""
    return tensor[..., None, None] if ".attn_1." in _vae_name(name) and tensor.ndim == 2 else tensor


def _tensors(folder: Path, component: str) -> dict[str, Tensor]:
    (file,) = (folder / component).glob("*.safetensors")
    return load_file(file)
