"""The check every exported file passes before it gets its name: would the WebUI and ComfyUI read all of it?

Independent of the code that writes: it takes a file's bytes and the frozen tables. Knows no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lorasmith.errors import TrainerError
from lorasmith.exporting.file_format import header_bytes, split_file
from lorasmith.exporting.key_tables import KeyTable, Layer, key_table
from lorasmith.exporting.metadata import hashed_metadata, legacy_hash

_PARTS = frozenset({"lora_down.weight", "lora_up.weight", "alpha"})
# Without these a reader hides the file or does not know what it belongs to.
_NEEDED_METADATA = (
    "ss_v2",
    "ss_base_model_version",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "modelspec.sai_model_spec",
    "modelspec.architecture",
)


class ExportError(TrainerError):
    """The program was about to write a file that others cannot read: its own mistake, `export_invalid`."""

    def __init__(self, reason: str, key: str = "") -> None:
        super().__init__("export_invalid", reason=reason, key=key)


def verify(
    source: Path | bytes,
    *,
    family: str,
    components: Collection[str],
    layer_shapes: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Passes a file only if every reader loads all of it.

    Every name is in the family's table, every module has down, up and alpha that fit together and are finite, alpha is
    a float32 scalar, exactly the trained `components` are there, and hashes and metadata are right. With `layer_shapes`
    ({module name: shape of the layer's weight}) also: exactly these modules, each of its layer's size.

    Raises:
        ExportError: anything is not so.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    try:
        metadata, header, data = split_file(content)
        tensors = load(content)
    except (ValueError, SafetensorError) as error:
        raise ExportError("unreadable", str(error)) from error
    if not header.startswith(b'{"'):
        raise ExportError("header_start", header[:8].decode("utf-8", "replace"))
    table = key_table(family)
    modules = _modules(tensors)
    _check_names(modules, table, components)
    for name, parts in modules.items():
        _check_module(name, parts, table.layers[name])
    if layer_shapes is not None:
        _check_layers(modules, layer_shapes)
    _check_metadata(metadata, tensors, data)


def _modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, part = key.partition(".")
        modules.setdefault(module, {})[part] = tensor
    return modules


def _check_names(modules: Mapping[str, Mapping[str, Tensor]], table: KeyTable, components: Collection[str]) -> None:
    for name, parts in modules.items():
        if name not in table.layers:
            raise ExportError("unknown_name", f"{name}.{min(parts)}")
        if parts.keys() != _PARTS:
            raise ExportError("incomplete", f"{name}: {', '.join(sorted(parts.keys() ^ _PARTS))}")
    found = {component for component, names in table.names.items() if names & modules.keys()}
    if found != set(components):
        raise ExportError("components", ", ".join(sorted(found)))


def _check_module(name: str, parts: Mapping[str, Tensor], layer: Layer) -> None:
    down, up, alpha = parts["lora_down.weight"], parts["lora_up.weight"], parts["alpha"]
    ones = (1, 1) if layer.kind == "conv1x1" else ()
    is_pair = down.ndim == up.ndim == 2 + len(ones) and tuple(down.shape[2:]) == tuple(up.shape[2:]) == ones
    if not is_pair or down.shape[0] != up.shape[1] or 0 in down.shape or 0 in up.shape:
        raise ExportError("shape", f"{name}: {list(down.shape)}, {list(up.shape)}")
    if alpha.shape != () or alpha.dtype != torch.float32:
        raise ExportError("alpha", f"{name}: {alpha.dtype} {list(alpha.shape)}")
    if not alpha.item() > 0:
        raise ExportError("alpha", f"{name}: {alpha.item()}")
    for part, tensor in parts.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ExportError("not_finite", f"{name}.{part}")


def _check_layers(modules: Mapping[str, Mapping[str, Tensor]], layer_shapes: Mapping[str, Sequence[int]]) -> None:
    if modules.keys() != layer_shapes.keys():
        raise ExportError("modules", ", ".join(sorted(modules.keys() ^ layer_shapes.keys())[:3]))
    for name, parts in modules.items():
        merged = [parts["lora_up.weight"].shape[0], *parts["lora_down.weight"].shape[1:]]
        if merged != list(layer_shapes[name]):
            raise ExportError("layer_shape", f"{name}: {merged}, {list(layer_shapes[name])}")


def _check_metadata(metadata: Mapping[str, str], tensors: Mapping[str, Tensor], data: memoryview) -> None:
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ExportError("metadata_type", key)
    for key in _NEEDED_METADATA:
        if key not in metadata:
            raise ExportError("metadata_missing", key)
    if metadata.get("sshs_model_hash") != hashlib.sha256(data).hexdigest():
        raise ExportError("hash", "sshs_model_hash")
    if metadata.get("sshs_legacy_hash") != legacy_hash(header_bytes(tensors, hashed_metadata(metadata)), data):
        raise ExportError("hash", "sshs_legacy_hash")
