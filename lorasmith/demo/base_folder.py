"""The demo's base model as files: a diffusers folder of float16, with the tiny CLIP beside it.

Knows nothing of how it was trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from lorasmith.demo import base_parts, layouts
from lorasmith.demo.scenes import COLOURS, CONCEPT, SHAPES, SIZES
from lorasmith.demo.tokenizers import own_vocabulary, write_tokenizer
from lorasmith.families.clip import published_name

if TYPE_CHECKING:
    from transformers.models.clip import CLIPTokenizer

# Words the base knows, the unseen one's, and some that a person's own captions may hold.
_OTHERS = ("a", "an", "the", "of", "on", "in", "with", "and", "photo", "picture", "drawing", "background", "teal")
WORDS = (*_OTHERS, *COLOURS, *SHAPES, *(size for size in SIZES if size), CONCEPT, "robot", "cat", "dog", "person")


def demo_tokenizer() -> CLIPTokenizer:
    """The tokenizer that goes with the model."""
    from transformers.models.clip import CLIPTokenizer

    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), own_vocabulary(WORDS))
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
        return tokenizer


def write_base(folder: Path, parts: Mapping[str, nn.Module], *, scaling_factor: float) -> Path:
    """`parts`: "vae", "unet", "text_encoder" and "clip", whole. Written as float16 and returned."""
    vocabulary = len(demo_tokenizer())
    text = base_parts.clip_config(vocabulary)["text_config"]
    vae = {"_class_name": "AutoencoderKL", **base_parts.VAE_CONFIG, "scaling_factor": scaling_factor}
    unet = {"_class_name": "UNet2DConditionModel", **base_parts.UNET_CONFIG}
    encoder = {"architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **text}
    _write(folder / "vae", vae, "diffusion_pytorch_model", parts["vae"])
    _write(folder / "unet", unet, "diffusion_pytorch_model", parts["unet"])
    _write(folder / "text_encoder", encoder, "model", parts["text_encoder"], is_text=True)
    write_tokenizer(folder / "tokenizer", own_vocabulary(WORDS))
    scheduler = layouts.scheduler_config("epsilon", False)
    (folder / "scheduler").mkdir(exist_ok=True)
    layouts.write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    layouts.write_json(folder / "model_index.json", layouts.model_index(scheduler["_class_name"]))
    _write_clip(folder / "clip", parts["clip"], vocabulary)
    return folder


def read_base(folder: Path) -> dict[str, nn.Module]:
    """Reads the modules that `write_base` wrote, in float32."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel

    return {
        "vae": AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32),
        "unet": UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        "clip": CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32),
    }


def scaling_factor_of(folder: Path) -> float:
    """The scaling factor of the VAE that `write_base` wrote."""
    return float(json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))["scaling_factor"])


def _write_clip(folder: Path, clip: nn.Module, vocabulary: int) -> None:
    config = {"architectures": ["CLIPModel"], "model_type": "clip", **base_parts.clip_config(vocabulary)}
    _write(folder, config, "model", clip)
    write_tokenizer(folder, own_vocabulary(WORDS))
    side = base_parts.CLIP_SIDE
    layouts.write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": side},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "do_convert_rgb": True,
        },
    )


def _write(folder: Path, config: Mapping[str, Any], file: str, module: nn.Module, *, is_text: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    layouts.write_json(folder / "config.json", config)
    tensors = {}
    for name, tensor in module.state_dict().items():
        kept = tensor.to(torch.float16).contiguous() if tensor.is_floating_point() else tensor
        tensors[published_name(name) if is_text else name] = kept
    save_file(tensors, folder / f"{file}.safetensors", metadata={"format": "pt"})
