"""Loads CLIP's image tower from transformers' files, for measuring pictures. It is never trained, and no part of any
family.

Never goes online. The preparation of pictures is read from the model's own `preprocessor_config.json` and done in
`metrics.clip`: transformers' own classes for it need torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from lorasmith.errors import ModelError
from lorasmith.libraries import importing_library
from lorasmith.metrics.clip import Preparation

# Defaults of CLIPImageProcessor, where its file has no value.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_SIDE = 224
_BILINEAR = 2  # as Pillow numbers it


@dataclass(frozen=True, slots=True)
class ClipImages:
    """Satisfies `metrics.clip.ImageEncoder`."""

    tower: nn.Module
    projection: nn.Module
    preparation: Preparation

    def __call__(self, pixels: Tensor) -> Tensor:
        embedded: Tensor = self.projection(self.tower(pixel_values=pixels).pooler_output)
        return embedded


def load_clip(model: str) -> ClipImages:
    """Loads the image half of the CLIP in a folder of transformers; float32, on the CPU, frozen.

    Raises:
        ModelError: `clip_model`, there is no CLIP, or an incomplete one.
    """
    with importing_library():
        from transformers import CLIPModel

    folder = Path(model)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "clip":
            raise ModelError("clip_model", model=model, reason=f"model_type {config.get('model_type')!r}")
        preparation = _preparation(_processor(folder))
        load: Any = CLIPModel.from_pretrained
        whole, found = load(folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError("clip_model", model=model, reason=str(error).partition("\n")[0]) from error
    wrong = [str(name) for kind in ("missing_keys", "mismatched_keys") for name in found[kind]]
    if lacking := sorted(name for name in wrong if "position_ids" not in name and not _is_of_text(name)):
        raise ModelError("clip_model", model=model, reason=lacking[0])  # missing weights would be random numbers
    whole.requires_grad_(False).eval().float()
    return ClipImages(whole.vision_model, whole.visual_projection, preparation)


def _is_of_text(name: str) -> bool:
    return name.startswith(("text_model.", "text_projection.", "logit_scale"))


def _processor(folder: Path) -> Mapping[str, Any]:
    """The preparation in the model's files; newer versions of transformers put it a level deeper."""
    plain: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            plain = json.loads((folder / name).read_text(encoding="utf-8"))
            break
    inner: dict[str, Any] = plain.get("image_processor", plain)
    return inner


def _preparation(config: Mapping[str, Any]) -> Preparation:
    size, crop = config.get("size", _SIDE), config.get("crop_size", _SIDE)
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    edge = size.get("shortest_edge")
    resizes, crops = config.get("do_resize", True), config.get("do_center_crop", True)
    normalizes = config.get("do_normalize", True)
    mean = config.get("image_mean", _MEAN) if normalizes else (0, 0, 0)
    deviation = config.get("image_std", _DEVIATION) if normalizes else (1, 1, 1)
    return Preparation(
        shortest_edge=int(edge) if resizes and edge is not None else None,
        size=(int(size["height"]), int(size["width"])) if resizes and edge is None else None,
        resample="bilinear" if config.get("resample") == _BILINEAR else "bicubic",
        crop=(int(crop["height"]), int(crop["width"])) if crops else None,
        mean=_three(mean),
        deviation=_three(deviation),
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
