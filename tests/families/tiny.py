"""A model with random weights for each family, small enough for every test: `MINIATURES[family](folder)` writes it.

And single files that are a header only, of any size.
"""

import json
import math
import re
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lorasmith.families.headers import read_header
from tests.families.anima.miniature import make_model as make_anima
from tests.families.flux1.miniature import make_model as make_flux1
from tests.families.flux2_klein.miniature import make_model as make_flux2_klein
from tests.families.krea2.miniature import make_model as make_krea2
from tests.families.qwen_image21.miniature import make_model as make_qwen_image21
from tests.families.unet_miniature import make_model
from tests.families.zimage.miniature import make_model as make_zimage

MINIATURES: dict[str, Callable[[Path], Path]] = {
    "sd15": make_model,
    "sd2": partial(make_model, family="sd2", size="nano"),
    "sdxl": partial(make_model, family="sdxl", size="nano"),
    "krea2": make_krea2,
    "qwen_image21": make_qwen_image21,
    "anima": make_anima,
    "zimage": make_zimage,
    "flux2_klein": make_flux2_klein,
    "flux1": make_flux1,
}

UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer.text_model."


def write_header(path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of these shapes full of zeros, sparse on the disk: big models cost nothing."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        entries[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + place)
    return path


def published(name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a published file, as recorded in `tests/families/published`."""
    lines = (Path(__file__).parent / "published" / f"{name}.txt").read_text(encoding="ascii").splitlines()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return {
        key: () if shape == "-" else tuple(map(int, shape.split("x")))
        for names, shape in rows
        for key in each_of(names)
    }


def each_of(names: str) -> list[str]:
    """ "a.{b,c}" -> a.b, a.c; "{0..2}" stands for 0, 1 and 2."""
    choice = re.search(r"\{([^{}]*)\}", names)
    if choice is None:
        return [names]
    ends = names[: choice.start()], names[choice.end() :]
    first, dots, last = choice[1].partition("..")
    options = map(str, range(int(first), int(last) + 1)) if dots else choice[1].split(",")
    return [name for option in options for name in each_of(option.join(ends))]


def shapes_of(single: Path) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in read_header(single).tensors.items()}


def edited(single: Path, out: Path, edit: Callable[[dict[str, tuple[int, ...]], dict[str, str]], None]) -> Path:
    """The shapes of a checkpoint, changed."""
    shapes, metadata = shapes_of(single), dict(read_header(single).metadata)
    edit(shapes, metadata)
    return write_header(out, shapes, metadata)


def real_shapes() -> dict[str, tuple[int, ...]]:
    """Of the published single file: widths from the libraries' own classes, names from the code that makes models."""
    from lorasmith.demo import layouts

    layout = layouts.LAYOUTS["sd15"]
    shapes = _unet_and_vae({"unet": layouts.unet_config(layout), "vae": layouts.vae_config(layout)})
    text = layouts.text_shapes(layouts.text_config(layout, 49_408))
    return shapes | {TEXT + name.removeprefix("text_model."): shape for name, shape in text.items()}


def real_sd2_shapes() -> dict[str, tuple[int, ...]]:
    """The same of SD 2."""
    from lorasmith.demo.sd2_layout import sd2_configs

    configs = sd2_configs("sd2", 49_408)
    configs["text_encoder"] |= {"num_hidden_layers": 24}
    return _unet_and_vae(configs) | _text_shapes(configs["text_encoder"], "cond_stage_model.model.")


def real_sdxl_shapes() -> dict[str, tuple[int, ...]]:
    """The same of SDXL."""
    from lorasmith.demo import layouts
    from lorasmith.demo.sdxl_layout import sdxl_configs

    configs = sdxl_configs("sdxl", 49_408)
    first = layouts.text_shapes(configs["text_encoder"])
    return {
        **_unet_and_vae(configs),
        **{"conditioner.embedders.0.transformer." + name: shape for name, shape in first.items()},
        **_text_shapes(configs["text_encoder_2"], "conditioner.embedders.1.model."),
    }


def _unet_and_vae(configs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from lorasmith.demo import layouts

    unet, vae = configs["unet"], configs["vae"]
    with torch.device("meta"):
        unet_sizes = UNet2DConditionModel(**unet).state_dict()
        vae_sizes = AutoencoderKL(**vae).state_dict()
    shapes = {UNET + layouts.ldm_unet_name(name, unet): tuple(one.shape) for name, one in unet_sizes.items()}
    for name, one in vae_sizes.items():
        theirs = layouts.ldm_vae_name(name, vae)
        is_attention = ".attn_1." in theirs and one.ndim == 2
        shapes["first_stage_model." + theirs] = (*one.shape, 1, 1) if is_attention else tuple(one.shape)
    return shapes


def _text_shapes(config: dict[str, Any], prefix: str) -> dict[str, tuple[int, ...]]:
    """Of OpenCLIP's text encoder."""
    import torch

    from lorasmith.demo import layouts
    from lorasmith.demo.open_clip_names import open_clip_tensors

    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in layouts.text_shapes(config).items()}
        return {prefix + name: tuple(one.shape) for name, one in open_clip_tensors(tensors).items()}


def tiny_clip(folder: Path) -> Path:
    """A random CLIP of transformers: 2 layers, 32 px."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 64, "max_position_embeddings": 16, "projection_dim": 24}
    vision = {**sizes, "image_size": 32, "patch_size": 8, "projection_dim": 24}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    with torch.no_grad():  # as it is begun with, all pictures look alike to it
        for parameter in model.vision_model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    side = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(side))
    return folder
