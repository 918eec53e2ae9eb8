"""Writes a LoRA file: casts the tensors, adds the metadata, and checks the file before it gets its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lorasmith.adapters.base import AdapterKind
from lorasmith.exporting.file_format import data_bytes, header_bytes
from lorasmith.exporting.metadata import ExportFacts, build_metadata, hashed_metadata, with_hashes
from lorasmith.exporting.name_table import ALPHA, has_suffix
from lorasmith.exporting.verify import ExportError
from lorasmith.runs.durable import write_atomically

SAVE_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Written(NamedTuple):
    """A file that was written."""

    path: Path  # not the one asked for where Windows held the old file open
    sha256: str  # of all its bytes


def write_export(
    path: Path,
    tensors: Mapping[str, Tensor],
    facts: ExportFacts,
    *,
    precision: torch.dtype,
    kind: AdapterKind,
    check: Callable[[Path, bytes], None],
) -> Written:
    """Writes tensors that have the names of files (`names.to_file`), cast to `precision`, all but alphas and the
    kind's `float32_suffixes`.

    The bytes are a function of the other arguments than `check`, which gets the file before it has its name, and its
    bytes, and raises ExportError where readers would not load all of it.

    Raises:
        ExportError: readers would not load all of it, or a number does not fit into `precision`; no file is left.
        ResourceError: the disk is full.
    """
    content = export_bytes(tensors, build_metadata(facts), precision, kept=kind.float32_suffixes)

    def check_written(temporary: Path) -> None:
        written = temporary.read_bytes()
        if written != content:
            raise ExportError("not_as_written", path.name)
        check(temporary, written)

    return Written(write_atomically(path, content, check=check_written), hashlib.sha256(content).hexdigest())


def export_bytes(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    precision: torch.dtype,
    *,
    kept: frozenset[str] = frozenset(),
) -> bytes:
    """The bytes of the file, with its hashes; alphas and the suffixes `kept` keep their type."""
    kept |= {ALPHA}
    cast = {name: tensor if has_suffix(name, kept) else tensor.to(precision) for name, tensor in tensors.items()}
    data = data_bytes(cast)
    header = header_bytes(cast, hashed_metadata(metadata))
    return header_bytes(cast, with_hashes(metadata, header=header, data=data)) + data
