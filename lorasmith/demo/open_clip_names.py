"""A CLIP text encoder as OpenCLIP stores it: other names, query, key, value in a single matrix, a turned projection."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_FIXED = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under OpenCLIP's names, from those of transformers' CLIPTextModel, with or without projection."""
    found = {"logit_scale": torch.tensor(math.log(100.0))}
    for name, tensor in tensors.items():
        inner = name.removeprefix("text_model.")
        if inner == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif inner in _FIXED:
            found[_FIXED[inner]] = tensor
        else:
            _, _, number, part = inner.split(".", 3)
            part, leaf = part.rsplit(".", 1)
            stem = f"transformer.resblocks.{number}"
            if part in _LAYER:
                found[f"{stem}.{_LAYER[part]}.{leaf}"] = tensor
            elif part == "self_attn.q_proj":
                projections = [tensors[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
                found[f"{stem}.attn.in_proj_{leaf}"] = torch.cat(projections)
    return found
