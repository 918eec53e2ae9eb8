"""A Qwen-Image 2.1 of the libraries' own classes, small enough for every test: a diffusers folder that its pipeline
loads, and the same in ComfyUI's files."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from lorasmith.demo import layouts
from lorasmith.families.headers import read_json
from lorasmith.families.qwen_image21.text import TEMPLATE
from lorasmith.families.weights import CONFIGS_KEY
from tests.families.made_once import made_once
from tests.families.qwen_miniature import fill, write_tokenizer

DENOISER = {
    "in_channels": 8,
    "out_channels": 8,
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "context_in_dim": 24,
    "axes_dims_rope": [4, 6, 6],
}
VAE = {
    "base_dim": 4,
    "decoder_base_dim": 6,
    "z_dim": 8,
    "dim_mult": [1, 1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True, True],
    "latents_mean": [0.5, -0.7, 0.1, 0.4, 1.5, -1.4, 0.0, 2.7],
    "latents_std": [3.2, 2.8, 1.4, 2.3, 0.8, 4.0, 1.1, 3.1],
}
TEXT = {
    "text_config": {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
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
    "shift": 1.0,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 0.9,
    "base_image_seq_len": 256,
    "max_image_seq_len": 8192,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
}
_CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
)


@made_once
def make_model(folder: Path, **index: Any) -> Path:
    """Writes the folder with random weights and returns it; `index` adds to `model_index.json`."""
    from diffusers import AutoencoderKLQwenImage21, QwenImage21Transformer2DModel

    vocabulary = _write_processor(folder / "processor", folder / "vocabulary")
    language = {**TEXT["text_config"], "vocab_size": vocabulary}
    config = Qwen3VLConfig(text_config=language, vision_config=TEXT["vision_config"], tie_word_embeddings=False)
    parts = {
        "transformer": (QwenImage21Transformer2DModel(**DENOISER), "diffusion_pytorch_model"),
        "vae": (AutoencoderKLQwenImage21(**VAE), "diffusion_pytorch_model"),
        "text_encoder": (Qwen3VLForConditionalGeneration(config), "model"),
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
            "_class_name": "QwenImage21Pipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "vae": ["diffusers", "AutoencoderKLQwenImage21"],
            "text_encoder": ["transformers", "Qwen3VLForConditionalGeneration"],
            "processor": ["transformers", "Qwen3VLProcessor"],
            "transformer": ["diffusers", "QwenImage21Transformer2DModel"],
            **index,
        },
    )
    return folder


def _write_processor(folder: Path, plain: Path) -> int:
    """The processor as published, with the vocabulary in tokenizer.json alone; the size of the vocabulary."""
    words = (TEMPLATE.before + TEMPLATE.after).replace("Comprehend", 5 * "Com\npreh\nend\n")  # three tokens in Qwen's
    vocabulary = write_tokenizer(plain, words, more=("<|image_pad|>", "<|video_pad|>"))
    Qwen2Tokenizer.from_pretrained(plain, local_files_only=True).save_pretrained(folder)
    for file in plain.iterdir():
        file.unlink()
    plain.rmdir()
    (folder / "chat_template.jinja").write_text(_CHAT, encoding="utf-8")
    return vocabulary


class BlindProcessor(Qwen3VLProcessor):
    """What the pipeline reads captions with, without the part for pictures and films, which needs torchvision."""

    def __init__(self, image_processor: Any, tokenizer: Any, video_processor: Any, chat_template: str) -> None:
        super().__init__(image_processor, tokenizer, video_processor, chat_template)

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> None:
        pass


def load_pipeline(folder: Path) -> Any:
    """Diffusers' pipeline of the folder: the text encoder in bfloat16 and the rest in float32."""
    from diffusers import QwenImage21Pipeline

    types = {"text_encoder": torch.bfloat16, "default": torch.float32}
    tokenizer = Qwen2Tokenizer.from_pretrained(folder / "processor", local_files_only=True)
    processor = BlindProcessor(None, tokenizer, None, _CHAT)
    pipeline = QwenImage21Pipeline.from_pretrained(folder, processor=processor, dtype=types, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_split(folder: Path, models: Path, *, prefix: str = "model.diffusion_model.", name: str = "qwen21") -> Path:
    """The same model in ComfyUI's files and folders under `models`; the denoiser's file."""
    parts = {}
    for component in ("transformer", "vae", "text_encoder"):
        (file,) = (folder / component).glob("*.safetensors")
        parts[component] = load_file(file)
    text = {
        key.replace("language_model.", "").replace("model.visual.", "visual."): tensor
        for key, tensor in parts["text_encoder"].items()
        if key != "lm_head.weight"
    }
    saved = {
        models / "vae" / "qwen_image_2.1_vae_bf16.safetensors": original_vae(parts["vae"], VAE["num_res_blocks"]),
        models / "text_encoders" / "qwen3vl_8b_bf16.safetensors": text,
    }
    for path, tensors in saved.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    path = models / "diffusion_models" / f"{name}.safetensors"
    path.parent.mkdir(parents=True)
    denoiser = {prefix + key: tensor for key, tensor in fused(parts["transformer"]).items()}
    save_file(denoiser, path, {CONFIGS_KEY: json.dumps(described(folder))})
    return path


def described(folder: Path) -> dict[str, Any]:
    """What a single file of it has to state, as shapes do not tell it: it is of no published form."""
    files = {file.name: file.read_text(encoding="utf-8") for file in sorted((folder / "processor").iterdir())}
    configs = {part: read_json(folder / part / "config.json") for part in ("transformer", "vae", "text_encoder")}
    return {**configs, "pipeline": read_json(folder / "model_index.json"), "processor": files}


def fused(denoiser: dict[str, Tensor]) -> dict[str, Tensor]:
    """The denoiser's tensors as ComfyUI has them: an MLP's input layers as one, the gate first."""
    found = {}
    for name, tensor in denoiser.items():
        if name.endswith(".img_mlp.gate_layer.weight"):
            other = denoiser[name.replace("gate_layer", "proj")]
            found[name.replace("gate_layer", "gate_up")] = torch.cat([tensor, other])
        elif not name.endswith(".img_mlp.proj.weight"):
            found[name] = tensor
    return found


def original_vae(vae: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The VAE's tensors as ComfyUI has them: in the names of Wan 2.2's code, and with an axis of time."""
    found = {}
    for name, tensor in vae.items():
        over_time = tensor.ndim == 4 and name.endswith("weight") and not re.search("resample|attentions", name)
        found[original_vae_name(name, layers)] = tensor.unsqueeze(2).contiguous() if over_time else tensor
    return found


def original_vae_name(name: str, layers: int) -> str:
    """The name in Wan 2.2's code; a level of the encoder has so many `layers`, of the decoder one more."""
    for old, new in _ORIGINAL.items():
        name = name.replace(old, new)
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.downsamples.\1.downsamples.", name)
    name = re.sub(r"encoder\.down_blocks\.(\d+)\.downsampler\.", rf"encoder.downsamples.\1.downsamples.{layers}.", name)
    name = re.sub(r"decoder\.up_blocks\.(\d+)\.resnets\.", r"decoder.upsamples.\1.upsamples.", name)
    return re.sub(r"decoder\.up_blocks\.(\d+)\.upsampler\.", rf"decoder.upsamples.\1.upsamples.{layers + 1}.", name)


_ORIGINAL = {
    "mid_block.resnets.0.": "middle.0.",
    "mid_block.attentions.0.": "middle.1.",
    "mid_block.resnets.1.": "middle.2.",
    ".norm1.": ".residual.0.",
    ".conv1.": ".residual.2.",
    ".norm2.": ".residual.3.",
    ".conv2.": ".residual.6.",
    ".conv_shortcut.": ".shortcut.",
    "post_quant_conv.": "conv2.",
    "quant_conv.": "conv1.",
    "coder.conv_in.": "coder.conv1.",
    "coder.norm_out.": "coder.head.0.",
    "coder.conv_out.": "coder.head.2.",
}
