"""A model with random weights for each family, small enough for every test: `MINIATURES[family](folder)` writes it.

And single files that are a header only, of any size.
"""

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorasmith.demo.miniature import make_model
from lorasmith.families.headers import read_header

MINIATURES: dict[str, Callable[[Path], Path]] = {
    "sd15": make_model,
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


def shapes_of(single: Path) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for name, info in read_header(single).tensors.items()}


def edited(single: Path, out: Path, edit: Callable[[dict[str, tuple[int, ...]], dict[str, str]], None]) -> Path:
    """The shapes of a checkpoint, changed."""
    shapes, metadata = shapes_of(single), dict(read_header(single).metadata)
    edit(shapes, metadata)
    return write_header(out, shapes, metadata)


def real_shapes() -> dict[str, tuple[int, ...]]:
    """Of the published single file: widths from the libraries' own classes, names from the code that makes models."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from lorasmith.demo import layouts

    layout = layouts.LAYOUTS["sd15"]
    unet, vae = layouts.unet_config(layout), layouts.vae_config(layout)
    with torch.device("meta"):
        unet_sizes = UNet2DConditionModel(**unet).state_dict()
        vae_sizes = AutoencoderKL(**vae).state_dict()
    shapes = {UNET + layouts.ldm_unet_name(name, unet): tuple(one.shape) for name, one in unet_sizes.items()}
    for name, one in vae_sizes.items():
        theirs = layouts.ldm_vae_name(name, vae)
        is_attention = ".attn_1." in theirs and one.ndim == 2
        shapes["first_stage_model." + theirs] = (*one.shape, 1, 1) if is_attention else tuple(one.shape)
    text = layouts.text_shapes(layout, 49_408)
    return shapes | {TEXT + name.removeprefix("text_model."): shape for name, shape in text.items()}
