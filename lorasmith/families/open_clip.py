"""The names that OpenCLIP gives the tensors of a text encoder, as single files of SD 2 and SDXL hold it.

OpenCLIP keeps query, key and value of a layer in a single matrix, and the projection of the pooled output turned. The
canonical names are those of transformers' CLIPTextModelWithProjection in published folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lorasmith.families.places import Place

_FIXED = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_FUSED = ("q_proj", "k_proj", "v_proj")  # the order of their rows in `in_proj`


def text_places(prefix: str, names: Iterable[str], *, layers: int | None = None) -> dict[str, Place]:
    """Canonical name -> place, of the text encoder whose names begin with `prefix`.

    What transformers has no tensor for (the scale of logits, a mask) is left out, and with `layers` all layers after
    that many: SD 2 was trained on the output of the last layer but one, and its published folders end there.
    """
    found: dict[str, Place] = {}
    for name in names:
        if not name.startswith(prefix):
            continue
        inner = name.removeprefix(prefix)
        layer = re.fullmatch(r"transformer\.resblocks\.([0-9]+)\.(.+)[._](weight|bias)", inner)
        if inner in _FIXED:
            found[_FIXED[inner]] = Place(name)
        elif inner == "text_projection":
            found["text_projection.weight"] = Place(name, is_transposed=True)
        elif layer and (layers is None or int(layer[1]) < layers):
            stem, part, leaf = f"text_model.encoder.layers.{layer[1]}", layer[2], layer[3]
            if part == "attn.in_proj":
                for number, projection in enumerate(_FUSED):
                    found[f"{stem}.self_attn.{projection}.{leaf}"] = Place(name, number, len(_FUSED))
            elif part in _LAYER:
                found[f"{stem}.{_LAYER[part]}.{leaf}"] = Place(name)
    return found
