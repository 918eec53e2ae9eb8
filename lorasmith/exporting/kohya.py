"""An adapter's tensors under the names of the WebUI, and the way back. Knows no model and reads no file.

Names here: "<component>.<path>.lora_down.weight" and "….lora_up.weight", where "<component>.<path>" is a target's name.
Names there: "<prefix>_<path with _ for .>.lora_down.weight", "….lora_up.weight" and "….alpha".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lorasmith.errors import ModelError
from lorasmith.exporting.key_tables import Layer, key_table, module_name

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


def to_kohya(tensors: Mapping[str, Tensor], *, family: str, alpha: float) -> dict[str, Tensor]:
    """The WebUI's names, with an alpha (float32 scalar) for each pair; tensors keep their type.

    The pair of a 1x1 convolution gets 4 dimensions, where it has 2.
    """
    table = key_table(family)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        target, _, part = name.rpartition(".lora_")
        component, _, path = target.partition(".")
        assert path and f"lora_{part}" in (DOWN, UP), name
        pairs.setdefault(module_name(table.prefixes[component], path), {})[f"lora_{part}"] = tensor
    assert sum(map(len, pairs.values())) == len(tensors), "two targets share a name"
    named: dict[str, Tensor] = {}
    for module, pair in pairs.items():
        assert pair.keys() == {DOWN, UP}, module
        assert module in table.layers, module
        for part in (DOWN, UP):
            stored = _as_stored(pair[part], table.layers[module])
            assert stored is not None, (module, part, pair[part].shape)
            named[f"{module}.{part}"] = stored
        named[f"{module}.{ALPHA}"] = torch.tensor(alpha, dtype=torch.float32)
    return named


def from_kohya(tensors: Mapping[str, Tensor], *, family: str) -> dict[str, Tensor]:
    """This project's names, float32: alpha / rank is folded into the up matrix, so that the scale becomes 1.

    A file without alpha has the scale 1 already. The pairs of 1x1 convolutions come out with 4 dimensions, those of
    linear layers with 2, however the file stores them.

    Raises:
        ModelError: `init_from_foreign`, a key that is not part of a LoRA pair of one of the family's layers;
            `init_from_incomplete`, half a pair, or none at all; `init_from_shape`, matrices that do not fit together;
            `init_from_not_finite`.
    """
    table = key_table(family)
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, part = key.partition(".")
        if module not in table.layers or part not in (DOWN, UP, ALPHA):
            raise ModelError("init_from_foreign", key=key, family=family)
        pairs.setdefault(module, {})[part] = tensor
    if not pairs:
        raise ModelError("init_from_incomplete", key=DOWN)
    found: dict[str, Tensor] = {}
    for module, pair in pairs.items():
        layer = table.layers[module]
        found[f"{layer.name}.{DOWN}"], found[f"{layer.name}.{UP}"] = _folded(module, pair, layer)
    return found


def merged_delta(down: Tensor, up: Tensor, alpha: float) -> Tensor:
    """What a pair adds to its layer's weight, in the weight's shape: alpha / rank * up @ down."""
    product = torch.mm(up.flatten(start_dim=1), down.flatten(start_dim=1))
    return (alpha / down.shape[0] * product).reshape(up.shape[0], *down.shape[1:])


def _folded(module: str, pair: Mapping[str, Tensor], layer: Layer) -> tuple[Tensor, Tensor]:
    for part in (DOWN, UP):
        if part not in pair:
            raise ModelError("init_from_incomplete", key=f"{module}.{part}")
    for part, tensor in pair.items():
        if part == ALPHA and tensor.numel() != 1:
            raise ModelError("init_from_shape", key=f"{module}.{part}", shape=list(tensor.shape))
        if tensor.is_complex() or not bool(torch.isfinite(tensor.to(torch.float32)).all()):
            raise ModelError("init_from_not_finite", key=f"{module}.{part}")
    down, up = (_as_stored(pair[part].to(torch.float32), layer) for part in (DOWN, UP))
    if down is None or up is None or down.shape[0] != up.shape[1] or down.shape[0] == 0:
        shapes = [list(pair[part].shape) for part in (DOWN, UP)]
        raise ModelError("init_from_shape", key=module, shape=shapes)
    alpha = pair[ALPHA].to(torch.float32).item() if ALPHA in pair else float(down.shape[0])
    return down, up * (alpha / down.shape[0])


def _as_stored(matrix: Tensor, layer: Layer) -> Tensor | None:
    """(a, b) or (a, b, 1, 1) in the form of the layer's kind; None where it is neither."""
    if matrix.ndim not in (2, 4) or matrix.shape[2:].numel() != 1:
        return None
    flat = matrix.flatten(start_dim=1)
    return flat if layer.kind == "linear" else flat[:, :, None, None]
