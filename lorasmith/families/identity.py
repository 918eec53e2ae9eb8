"""SHA-256 identities of a base model and of its encoders, without loading them. Needs no torch.

A hash is made once while the process lives and the file stays as it was: several identities need it, and a worker
begins to hash before it needs the results (`hash_ahead`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families.folders import component_files
from lorasmith.families.headers import file_kind, read_header
from lorasmith.families.places import Place
from lorasmith.families.weights import BaseWeights

_BLOCK = 1 << 25  # bytes hashed at a time: for each, a thread waits until the interpreter is free
_hashes: dict[Hashable, Future[str]] = {}
_lock = Lock()


def hash_ahead(weights: BaseWeights) -> None:
    """Begins to make the hashes of the encoders and of the whole in another thread: hashing gigabytes leaves the
    interpreter free, and importing libraries needs a single core."""

    def hash_all() -> None:
        with suppress(OSError, ModelError, ValueError):  # it occurs again where the hash is needed
            for component in ("vae", *weights.names.tokenizers):  # needed first, for the keys of the cache
                component_sha256(weights, component)
            weights_sha256(weights)

    Thread(target=hash_all, name="hash-ahead", daemon=True).start()


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
    described = {"config": weights.configs[component]}
    if component in weights.names.tokenizers:
        described["tokenizer"] = _tokenizer_identity(weights, weights.names.tokenizers[component])
    start = json.dumps(described, sort_keys=True)
    if component in weights.replaced:
        other = weights.replaced[component]
        if component in weights.names.tokenizers:  # large: no byte is hashed twice for this and the run's identity
            return hashlib.sha256((start + files_sha256(other.paths)).encode()).hexdigest()
        for path in other.paths:  # one as a rule; each hash goes into the next
            start = _part_sha256(start, path, component, other.find)
        return start
    if weights.layout == "diffusers":
        files = component_files(weights.path, component, weights.names)
        return hashlib.sha256("".join([start, *map(file_sha256, files)]).encode()).hexdigest()
    return _part_sha256(start, weights.path, component, partial(weights.names.from_single_file, component))


def _tokenizer_identity(weights: BaseWeights, tokenizer: str) -> Any:
    if weights.layout != "diffusers":
        return weights.configs[tokenizer]
    folder = weights.path / tokenizer
    return {file.name: file_sha256(file) for file in sorted(folder.iterdir()) if file.suffix in (".json", ".txt")}


def files_sha256(paths: Sequence[Path]) -> str:
    """SHA-256 of a file, or of several over theirs, in any order; "" of none."""
    hashes = sorted(map(file_sha256, paths))
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def _part_sha256(start: str, path: Path, component: str, find: Callable[[Iterable[str]], dict[str, Place]]) -> str:
    """SHA-256 of `start` and the tensors of a safetensors file that `find` places; of a pickle all bytes."""
    if file_kind(path) == "pickle":
        return hashlib.sha256((start + file_sha256(path)).encode()).hexdigest()

    def digest() -> str:
        tensors = read_header(path).tensors
        places = find(tensors)
        found = hashlib.sha256(start.encode())
        with path.open("rb") as file:
            for canonical, place in sorted(places.items(), key=lambda item: item[0]):
                info = place.info(tensors[place.name])
                found.update(f"{canonical} {info.dtype} {info.shape}\n".encode())
                file.seek(info.start)
                found.update(file.read(info.end - info.start))
        return found.hexdigest()

    return _once((start, component, *_version(path)), digest)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    return _once(_version(path), partial(_whole_sha256, path))


def short_hash(path: Path) -> str:
    """The old short hash of the WebUI: 8 digits of the SHA-256 of 64 KiB from the first MiB on."""
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def _version(path: Path) -> tuple[Path, int, int]:
    """What changes with a file."""
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


def _once(key: Hashable, make: Callable[[], str]) -> str:
    """The hash under `key`, by `make` where there is none yet; a thread that asks meanwhile waits for it."""
    with _lock:
        is_first = key not in _hashes
        future = _hashes.setdefault(key, Future())
    if is_first:
        try:
            future.set_result(make())
        except BaseException as error:
            with _lock:
                del _hashes[key]
            future.set_exception(error)
            raise
    return future.result()


def _whole_sha256(path: Path) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()
