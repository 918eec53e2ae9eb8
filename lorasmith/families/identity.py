"""SHA-256 identities of a base model and of its encoders, without loading them. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

from lorasmith.families.folders import component_files
from lorasmith.families.headers import file_kind, read_header
from lorasmith.families.places import Place
from lorasmith.families.weights import BaseWeights


def weights_sha256(weights: BaseWeights) -> str:
    """Identity of the base model: SHA-256 of the file; of a folder, over the SHA-256s of its weights and configs."""
    if weights.layout != "diffusers":
        return file_sha256(weights.path)
    files = [weights.path / name for name in weights.names.config_files.values()]
    for component in weights.names.components:
        files += component_files(weights.path, component, weights.names)
    listed = sorted((file.relative_to(weights.path).as_posix(), file_sha256(file)) for file in files)
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def component_sha256(weights: BaseWeights, component: str) -> str:
    """Identity of what an encoder makes of an input: SHA-256 over its tensors, its config and its tokenizer."""
    digest = hashlib.sha256()
    described = {"config": weights.configs[component]}
    if component in weights.names.tokenizers:
        described["tokenizer"] = _tokenizer_identity(weights, weights.names.tokenizers[component])
    digest.update(json.dumps(described, sort_keys=True).encode())
    if component in weights.replaced:
        other = weights.replaced[component]
        _add_file(other.path, other.find, digest.update)
    elif weights.layout == "diffusers":
        for file in component_files(weights.path, component, weights.names):
            digest.update(file_sha256(file).encode())
    else:
        _add_file(weights.path, partial(weights.names.from_single_file, component), digest.update)
    return digest.hexdigest()


def _tokenizer_identity(weights: BaseWeights, tokenizer: str) -> Any:
    if weights.layout != "diffusers":
        return weights.configs[tokenizer]
    folder = weights.path / tokenizer
    return {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.suffix in (".json", ".txt")}


def _add_file(path: Path, find: Callable[[Iterable[str]], dict[str, Place]], update: Callable[[bytes], None]) -> None:
    """Adds the tensors of a safetensors file that `find` places; of a pickle all bytes."""
    if file_kind(path) == "pickle":
        update(file_sha256(path).encode())
        return
    tensors = read_header(path).tensors
    places = find(tensors)
    with path.open("rb") as file:
        for canonical, place in sorted(places.items(), key=lambda item: item[0]):
            info = place.info(tensors[place.name])
            update(f"{canonical} {info.dtype} {info.shape}\n".encode())
            file.seek(info.start)
            update(file.read(info.end - info.start))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, kept while the process lives and the file stays as it was: several identities need it."""
    status = path.stat()
    return _hashed(path, status.st_size, status.st_mtime_ns)


def short_hash(path: Path) -> str:
    """The old short hash of the WebUI: 8 digits of the SHA-256 of 64 KiB from the first MiB on."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


@cache
def _hashed(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001  the rest of the key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
