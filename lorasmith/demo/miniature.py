"""Makes models with random weights in the exact layout of Stable Diffusion 1.x, 2.x or XL, and pictures to train on.

For tests, benchmarks and trying the program without a download. The weights know nothing: what is learned on them shows
that the machinery works, not what a LoRA looks like.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lorasmith.demo import layouts, sd2_layout
from lorasmith.demo.layouts import LAYOUTS, ModelSize
from lorasmith.demo.open_clip_names import open_clip_tensors
from lorasmith.demo.sdxl_layout import has_clip_vocabulary, sdxl_configs
from lorasmith.demo.tokenizers import END, own_vocabulary, write_tokenizer
from lorasmith.families.clip_bpe import clip_tokenizer_files
from lorasmith.seeding import fold

Shapes = Mapping[str, tuple[int, ...]]
MadeFamily = Literal["sd15", "sd2", "sdxl"]

# Factors on 1/sqrt(fan in), so that a picture's latents and a noise prediction have a standard deviation of about 1.
_GAINS = {"unet/conv_out.weight": 1.7, "vae/decoder.conv_out.weight": 0.8, "vae/post_quant_conv.weight": 0.2}
_LATENT_GAIN = 9.0  # 1/0.18215 is 5.5, and the encoder's last activation has a standard deviation of 0.6
_COLOURS = {
    "red": (210, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 210),
    "yellow": (235, 205, 50),
    "purple": (140, 60, 170),
    "orange": (240, 140, 40),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
_SHAPES = ("circle", "square", "triangle", "ring", "cross")


def make_model(
    folder: Path,
    *,
    family: MadeFamily = "sd15",
    size: ModelSize = "miniature",
    seed: int = 0,
    prediction: str = "epsilon",
    zero_terminal_snr: bool = False,
    precision: torch.dtype = torch.float32,
) -> Path:
    """Writes a diffusers folder and returns it. The weights are a function of (family, size, seed) alone.

    "nano": one layer in each level (two in SDXL), 64 px; "miniature": 64 px, SDXL with every layer of the real model;
    both with a vocabulary of some hundred tokens. "narrow": every layer of the real model, 128 px, CLIP's vocabulary;
    the family's name: the real architecture, "sd15" 859.5 M parameters in the UNet (4.3 GB in float32), "sd2" 865.9 M,
    "sdxl" 2,567 M.
    """
    own = not _has_clip_vocabulary(family, size)
    files = own_vocabulary() if own else clip_tokenizer_files()
    configs = _configs(family, size, len(json.loads(files["vocab.json"])))
    for part, config in configs.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        if part.startswith("text_encoder"):
            is_open_clip = family == "sd2" or part == "text_encoder_2"
            tokenizer = folder / part.replace("text_encoder", "tokenizer")
            write_tokenizer(tokenizer, files, padding="!" if is_open_clip else END)
            shapes: Shapes = layouts.text_shapes(config)
            described = config
        else:
            shapes = _unet_shapes(config) if part == "unet" else _vae_shapes(config)
            described = {"_class_name": _CLASSES[part], **config}
        layouts.write_json(folder / part / "config.json", described)
        tensors = {name: _filled(part, name, shape, seed).to(precision) for name, shape in shapes.items()}
        save_file(tensors, folder / part / f"{_stem(part)}.safetensors", metadata={"format": "pt"})
    scheduler = layouts.scheduler_config(prediction, zero_terminal_snr)
    (folder / "scheduler").mkdir(exist_ok=True)
    layouts.write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = layouts.sdxl_model_index if family == "sdxl" else layouts.model_index
    layouts.write_json(folder / "model_index.json", index(scheduler["_class_name"]))
    return folder


def to_single_file(
    folder: Path, file: Path, *, with_configs: bool, precision: torch.dtype | None = None, has_text_model: bool = True
) -> Path:
    """The model of a diffusers folder as one checkpoint in the original (LDM, SGM) layout, and returns its path.

    A `.ckpt` is pickled as published files are: {"state_dict": …, "global_step": …}. `with_configs` describes the model
    in the metadata `lorasmith.configs`. v-prediction and zero-terminal-SNR are marked by the keys `v_pred` and `ztsnr`.
    `has_text_model=False` leaves `text_model.` out of the text encoder's names, as old files do.
    """
    text_encoders = [part for part in ("text_encoder", "text_encoder_2") if (folder / part).is_dir()]
    configs = {part: _read_json(folder / part / "config.json") for part in ("unet", "vae", *text_encoders)}
    configs["scheduler"] = _read_json(folder / "scheduler" / "scheduler_config.json")
    tensors: dict[str, Tensor] = {}
    for name, tensor in _load(folder, "unet").items():
        tensors["model.diffusion_model." + layouts.ldm_unet_name(name, configs["unet"])] = tensor
    for name, tensor in _load(folder, "vae").items():
        original = layouts.ldm_vae_name(name, configs["vae"])
        is_attention = ".attn_1." in original and tensor.ndim == 2
        tensors["first_stage_model." + original] = tensor[:, :, None, None] if is_attention else tensor
    tensors |= _single_file_text(folder, configs, has_text_model=has_text_model)
    if precision is not None:
        tensors = {name: tensor.to(precision) for name, tensor in tensors.items()}
    embedding = "embeddings.token_embedding.weight"
    for name in [name for name in tensors if name.endswith(embedding)]:  # OpenCLIP has no such buffer
        tensors[name.removesuffix(embedding) + "embeddings.position_ids"] = torch.arange(77)[None]
    is_sdxl = "text_encoder_2" in configs
    tensors |= _marks(configs["scheduler"]) if is_sdxl else _schedule_buffers(configs["scheduler"])
    if file.suffix == ".ckpt":
        torch.save({"state_dict": tensors, "global_step": 0}, file)
        return file
    metadata = {"format": "pt"}
    if with_configs:
        tokenizers = [part.replace("text_encoder", "tokenizer") for part in text_encoders]
        metadata["lorasmith.configs"] = json.dumps(configs | {name: _texts(folder / name) for name in tokenizers})
    save_file(tensors, file, metadata=metadata)
    return file


def draw_pictures(folder: Path, count: int, *, seed: int, size: tuple[int, int] = (96, 96), repeats: int = 10) -> Path:
    """`count` pictures of coloured shapes, each with a caption beside it, in `folder/<repeats>_test`: returned."""
    target = folder / f"{repeats}_test"
    target.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        chance = random.Random(fold(seed, "picture", number))
        colour, ground = chance.sample(sorted(_COLOURS), 2)
        shape = chance.choice(_SHAPES)
        picture = _drawn(shape, _COLOURS[colour], _COLOURS[ground], size=size, chance=chance)
        picture.save(target / f"picture_{number:03d}.png")
        caption = f"a {colour} {shape} on a {ground} background"
        (target / f"picture_{number:03d}.txt").write_text(caption + "\n", encoding="utf-8")
    return target


def main(arguments: list[str] | None = None) -> None:
    """`python -m lorasmith.demo.miniature FOLDER`: a model, eight pictures, a lorasmith.toml that names the model."""
    parser = argparse.ArgumentParser(prog="python -m lorasmith.demo.miniature", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=get_args(MadeFamily), default="sd15")
    parser.add_argument("--size", choices=get_args(ModelSize), default="miniature")
    parser.add_argument("--single-file", action="store_true", help="a single file beside the diffusers folder")
    parser.add_argument("--half", action="store_true", help="weights in float16")
    asked = parser.parse_args(arguments)
    folder = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    precision = torch.float16 if asked.half else torch.float32
    model = make_model(folder / "base_model", family=asked.family, size=asked.size, precision=precision)
    if asked.single_file:
        model = to_single_file(model, folder / "base_model.safetensors", with_configs=True)
    draw_pictures(folder / "lora_train_set", 8, seed=0)
    (folder / "lorasmith.toml").write_text(f'base_model = "{model.name}"\n', encoding="utf-8")


# -- layouts ---------------------------------------------------------------------------------------

_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}


def _has_clip_vocabulary(family: MadeFamily, size: ModelSize) -> bool:
    if family == "sd2":
        return sd2_layout.has_clip_vocabulary(size)
    return has_clip_vocabulary(size) if family == "sdxl" else LAYOUTS[size].has_clip_vocabulary


def _configs(family: MadeFamily, size: ModelSize, vocabulary: int) -> dict[str, dict[str, Any]]:
    """By component, in the order in which they are written."""
    if family == "sd2":
        return sd2_layout.sd2_configs(size, vocabulary)
    if family == "sdxl":
        return sdxl_configs(size, vocabulary)
    layout = LAYOUTS[size]
    text = layouts.text_config(layout, vocabulary)
    return {"unet": layouts.unet_config(layout), "vae": layouts.vae_config(layout), "text_encoder": text}


def _stem(part: str) -> str:
    return "diffusion_pytorch_model" if part in _CLASSES else "model"


def _load(folder: Path, part: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(folder / part / f"{_stem(part)}.safetensors")
    return tensors


def _single_file_text(folder: Path, configs: Mapping[str, Any], *, has_text_model: bool) -> dict[str, Tensor]:
    """The text encoders under the names of a single file: OpenCLIP's for that of SD 2 and the second of SDXL."""
    first = _load(folder, "text_encoder")
    if "text_encoder_2" in configs:
        prefix = "conditioner.embedders.0.transformer."
        second = open_clip_tensors(_load(folder, "text_encoder_2"))
        named = {"conditioner.embedders.1.model." + name: tensor for name, tensor in second.items()}
    elif configs["unet"].get("use_linear_projection"):
        return {
            "cond_stage_model.model." + name: tensor for name, tensor in open_clip_tensors(_with_last(first)).items()
        }
    else:
        prefix, named = "cond_stage_model.transformer.", {}
    stems = {name: name if has_text_model else name.removeprefix("text_model.") for name in first}
    return {prefix + stems[name]: tensor for name, tensor in first.items()} | named


def _with_last(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With what OpenCLIP has and Stable Diffusion 2 does not use: a 24th layer (here the first again), a projection."""
    layer, width = "text_model.encoder.layers.{}.", len(tensors["text_model.final_layer_norm.weight"])
    again = {name.replace(layer.format(0), layer.format(23)): tensor.clone() for name, tensor in tensors.items()}
    return again | tensors | {"text_projection.weight": torch.eye(width)}


def _texts(tokenizer: Path) -> dict[str, str]:
    return {name: (tokenizer / name).read_text(encoding="utf-8") for name in ("vocab.json", "merges.txt")}


# -- weights ---------------------------------------------------------------------------------------


def _unet_shapes(config: dict[str, Any]) -> Shapes:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(config)
    return _shapes(model)


def _vae_shapes(config: dict[str, Any]) -> Shapes:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        model = AutoencoderKL.from_config(config)
    return _shapes(model)


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _filled(part: str, name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Norms are the identity, biases 0, matrices keep the scale of what goes through them."""
    if len(shape) == 1:
        is_scale = name.endswith(".weight")
        filled = torch.ones(shape) if is_scale else torch.zeros(shape)
        if name == "quant_conv.bias":
            filled[4:] = -8.0  # log-variance: a posterior as narrow as a trained VAE's
        return filled
    generator = torch.Generator().manual_seed(fold(seed, part, name))
    if "embedding.weight" in name:
        return torch.empty(shape).normal_(0.0, 0.3 if "position" in name else 1.0, generator=generator)
    deviation = _GAINS.get(f"{part}/{name}", 1.0) / math.sqrt(math.prod(shape[1:]))
    filled = torch.empty(shape).normal_(0.0, deviation, generator=generator)
    if part == "vae" and name == "quant_conv.weight":
        filled[:4] *= _LATENT_GAIN
        filled[4:] *= 0.1
    return filled


def _schedule_buffers(scheduler: Mapping[str, Any]) -> dict[str, Tensor]:
    """What LDM's DDPM class registers and no reader needs, with the marks."""
    steps = scheduler["num_train_timesteps"]
    first, last = math.sqrt(scheduler["beta_start"]), math.sqrt(scheduler["beta_end"])
    betas = torch.linspace(first, last, steps, dtype=torch.float64) ** 2
    products = torch.cumprod(1 - betas, 0)
    buffers = {
        "betas": betas,
        "alphas_cumprod": products,
        "alphas_cumprod_prev": torch.cat([torch.ones(1, dtype=torch.float64), products[:-1]]),
        "sqrt_alphas_cumprod": products.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - products).sqrt(),
    }
    return {name: tensor.float() for name, tensor in buffers.items()} | _marks(scheduler)


def _marks(scheduler: Mapping[str, Any]) -> dict[str, Tensor]:
    """The keys that mark other predictions."""
    marks = {
        "v_pred": scheduler["prediction_type"] == "v_prediction",
        "ztsnr": scheduler.get("rescale_betas_zero_snr", False),
    }
    return {name: torch.zeros(0) for name, is_marked in marks.items() if is_marked}


def _read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


# -- pictures --------------------------------------------------------------------------------------

Colour = tuple[int, int, int]


def _drawn(shape: str, colour: Colour, ground: Colour, *, size: tuple[int, int], chance: random.Random) -> Image.Image:
    """Drawn three times as large and reduced, for smooth edges."""
    width, height = size[0] * 3, size[1] * 3
    picture = Image.new("RGB", (width, height), ground)
    pen = ImageDraw.Draw(picture)
    radius = min(width, height) * chance.uniform(0.22, 0.38)
    x = chance.uniform(radius, width - radius)
    y = chance.uniform(radius, height - radius)
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=round(radius * 0.35))
    elif shape == "cross":
        arm = radius * 0.3
        pen.rectangle((x - arm, box[1], x + arm, box[3]), fill=colour)
        pen.rectangle((box[0], y - arm, box[2], y + arm), fill=colour)
    else:
        pen.polygon(_corners(x, y, radius, 3 if shape == "triangle" else 4, chance.uniform(0, 360)), fill=colour)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _corners(x: float, y: float, radius: float, count: int, turn: float) -> list[tuple[float, float]]:
    angles = [math.radians(turn + 360 * number / count) for number in range(count)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


if __name__ == "__main__":
    main()
