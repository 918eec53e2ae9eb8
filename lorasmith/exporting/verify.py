"""Checks that the WebUI and ComfyUI would read all of an exported file; it gets its name only if they would.

Independent of the code that writes: the check takes a file's bytes, the frozen names, and the layers that were trained.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lorasmith.adapters.base import AdapterKind, LayerSettings
from lorasmith.adapters.flat import AdaptedLayer
from lorasmith.errors import TrainerError
from lorasmith.exporting.alphas import shared_alphas
from lorasmith.exporting.file_format import header_bytes, split_file
from lorasmith.exporting.joined import for_pieces
from lorasmith.exporting.metadata import hashed_metadata, legacy_hash
from lorasmith.exporting.name_table import ALPHA, NameTable, has_suffix, spec_of_piece
from lorasmith.finite import is_finite
from lorasmith.targets import LayerSpec

# Without these keys a reader hides the file, or does not know which models it is for.
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
    """A file that other programs would not read whole: a mistake of this program, `export_invalid`."""

    def __init__(self, reason: str, key: str = "") -> None:
        super().__init__("export_invalid", reason=reason, key=key)


def verify(source: Path | bytes, *, kind: AdapterKind, table: NameTable, layers: Mapping[str, AdaptedLayer]) -> None:
    """Checks that every reader would load the whole file.

    The file must hold exactly the modules of `layers` under the names of the table, each with all tensors of the kind,
    of the size of its layer and finite, and with the right alpha as a float32 scalar. Its metadata and hashes must be
    right.

    Args:
        layers: the layers that were trained, by target.

    Raises:
        ExportError: the file fails; `reason` and `key` say where.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    try:
        metadata, header, data = split_file(content)
        tensors = load(content)
    except (ValueError, SafetensorError) as error:
        raise ExportError("unreadable", str(error)) from error
    if not header.startswith(b'{"'):
        raise ExportError("header_start", header[:8].decode("utf-8", "replace"))
    shapes, alphas = _expected(kind, table, layers)
    _check_tensors(tensors, shapes, alphas)
    for key, tensor in tensors.items():
        if has_suffix(key, kind.float32_suffixes) and tensor.dtype != torch.float32:
            raise ExportError("precision", f"{key}: {tensor.dtype}")
    _check_metadata(metadata, tensors, data)


def _expected(
    kind: AdapterKind, table: NameTable, layers: Mapping[str, AdaptedLayer]
) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
    """The shapes and the alphas that a file of these layers holds, by key."""
    shapes: dict[str, tuple[int, ...]] = {}
    alphas: dict[str, float] = {}
    layers = for_pieces(layers, table, lambda whole, _, count: whole._replace(spec=spec_of_piece(whole.spec, count)))
    for module, rows in table.modules.items():
        parts = [layers[row.target] for row in rows if row.target in layers]
        if not parts:
            continue
        spec, settings = parts[0]
        if len(rows) > 1:  # the module computes the outputs of all of them, also of those that were not trained
            published = sum(row.layer.outputs for row in rows if row.target in layers)
            outputs = sum(part.spec.outputs for part in parts) * sum(row.layer.outputs for row in rows) // published
            spec = LayerSpec(outputs, spec.inputs)
            rank = sum(part.settings.rank for part in parts)
            settings = LayerSettings(rank, settings.alpha / settings.rank * rank)
        own = kind.shapes(spec, settings)
        shapes |= {f"{module}.{table.form.suffix(suffix)}": shape for suffix, shape in own.items()}
        alphas[module] = kind.file_alpha(own, settings)
    if not table.form.has_alphas:
        return shapes, {}
    return shapes, {f"{module}.{ALPHA}": alpha for module, alpha in shared_alphas(alphas, table).items()}


def _check_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], alphas: Mapping[str, float]
) -> None:
    expected = shapes.keys() | alphas.keys()
    for reason, keys in (("unknown_name", tensors.keys() - expected), ("incomplete", expected - tensors.keys())):
        if keys:
            raise ExportError(reason, min(keys))
    for key, shape in shapes.items():
        if tuple(tensors[key].shape) != shape:
            raise ExportError("shape", f"{key}: {list(tensors[key].shape)}, {list(shape)}")
        if not is_finite(tensors[key]):
            raise ExportError("not_finite", key)
    for key, alpha in alphas.items():
        wanted = torch.tensor(alpha, dtype=torch.float32)
        if tensors[key].dtype != torch.float32 or not torch.equal(tensors[key], wanted) or not alpha > 0:
            raise ExportError("alpha", f"{key}: {tensors[key].dtype} {tensors[key].tolist()}")


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
