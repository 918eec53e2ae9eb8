"""SHA-256 identities of a base model and of its encoders, without loading them. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from lorasmith.families.folders import component_files
from lorasmith.families.headers import read_header
from lorasmith.families.weights import BaseWeights


def weights_sha256(weights: BaseWeights) -> str:
    """Identity of the base model: SHA-256 of the file; of a folder, over the SHA-256s of its weights and configs."""
    if weights.layout != "diffusers":
        return _file_sha256(weights.path)
    files = [weights.path / name for name in weights.names.config_files.values()]
    for component in weights.names.components:
        files += component_files(weights.path, component, weights.names)
    listed = sorted((file.relative_to(weights.path).as_posix(), _file_sha256(file)) for file in files)
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def component_sha256(weights: BaseWeights, component: str) -> str:
    """Identity of what an encoder makes of an input: SHA-256 over its tensors, its config and its tokenizer."""
    digest = hashlib.sha256()
    described = {"config": weights.configs[component]}
    if component in weights.names.tokenizers:
        described["tokenizer"] = _tokenizer_identity(weights, weights.names.tokenizers[component])
    digest.update(json.dumps(described, sort_keys=True).encode())
    if weights.layout == "diffusers":
        for file in component_files(weights.path, component, weights.names):
            digest.update(_file_sha256(file).encode())
    elif weights.layout == "pickle":
        digest.update(_file_sha256(weights.path).encode())
    else:
        _add_tensors(weights, component, digest.update)
    return digest.hexdigest()


def _tokenizer_identity(weights: BaseWeights, tokenizer: str) -> Any:
    if weights.layout != "diffusers":
        return weights.configs[tokenizer]
    folder = weights.path / tokenizer
    return {file.name: _file_sha256(file) for file in sorted(folder.iterdir()) if file.suffix in (".json", ".txt")}


def _add_tensors(weights: BaseWeights, component: str, update: Callable[[bytes], None]) -> None:
    tensors = read_header(weights.path).tensors
    with weights.path.open("rb") as file:
        places = weights.names.from_single_file(component, tensors)
        for canonical, place in sorted(places.items(), key=lambda item: item[0]):
            info = place.info(tensors[place.name])
            update(f"{canonical} {info.dtype} {info.shape}\n".encode())
            file.seek(info.start)
            update(file.read(info.end - info.start))


def _file_sha256(path: Path) -> str:
    """Kept while the process lives and the file stays as it was: several identities need the same hash."""
    status = path.stat()
    return _hashed(path, status.st_size, status.st_mtime_ns)


@cache
def _hashed(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001  the rest of the key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
