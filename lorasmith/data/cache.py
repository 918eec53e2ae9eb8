"""The encoder cache: what the encoders made of pictures and captions, on disk under a hash of all it depends on.

A file per picture and a file per caption; a file is read back only if the SHA-256 inside still fits. Knows no family.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from lorasmith.data.files import BadFileError, read_whole
from lorasmith.data.types import Example
from lorasmith.runs.durable import write_atomically

FORMAT = 1  # goes up with every change to how pixels are cut or tensors stored
MAX_BYTES = 1 << 30  # of one file: the latents of the largest picture, or a caption's embeddings, take some megabytes
IMAGES, TEXT = "latents", "text"  # kinds of files: the names of their folders

Tensors = dict[str, Tensor]


# -- keys ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """The frozen encoders of a run, as far as what they make depends on them; makes the keys of its cache."""

    vae: str  # SHA-256, as `ModelFamily.encoder_hashes` gives it
    text_encoders: Mapping[str, str]  # name -> SHA-256 of each that is not trained
    text_settings: Mapping[str, Any]  # of the captions: clip_skip and the like
    dtype: torch.dtype = torch.float32  # of the stored tensors
    tile: int = 0  # pixels on a side of the tiles in which the VAE encodes larger pictures; 0: whole

    @property
    def caches_text(self) -> bool:
        """False where every text encoder is trained: captions become tokens then, and nothing of them is stored."""
        return bool(self.text_encoders)

    def latents_key(self, example: Example) -> str:
        """A hash of the picture's bytes, the geometry of its cut, and the VAE's weights; not of its name or caption."""
        return self._key(
            image=example.image_sha256,
            resized=example.resized,
            bucket=example.bucket,
            crop=example.crop,
            vae=self.vae,
            **({} if example.resampling == "lanczos" else {"resampling": example.resampling}),
            **({"is_mirrored": True} if example.is_mirrored else {}),
            **({"tile": self.tile} if 0 < self.tile < max(example.bucket) else {}),
        )

    def text_key(self, caption: str) -> str:
        """A hash of the caption, the weights of the text encoders, and the settings by which they read it."""
        return self._key(caption=caption, encoders=dict(self.text_encoders), **self.text_settings)

    def _key(self, **parts: object) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        text = json.dumps({"format": FORMAT, "dtype": dtype, **parts}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


# -- files -----------------------------------------------------------------------------------------


class EncoderCache:
    """A folder of cached tensors. Several runs may use one at the same time: equal keys hold equal bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set_aside: list[Path] = []  # damaged files found, under their new names; for a warning

    def path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.safetensors"

    def load(self, kind: str, key: str) -> Tensors | None:
        """The tensors, checked against their SHA-256; None where nothing is stored under the key.

        A damaged file, or a folder in its place, is renamed to `….damaged`, replacing any earlier file, and counts as
        missing.
        """
        path = self.path(kind, key)
        try:
            return _unpacked(read_whole(path, most=MAX_BYTES), key)
        except BadFileError as error:
            if error.problem.reason != "file_missing":
                self._set_aside(path)
            return None
        except (SafetensorError, ValueError, LookupError, struct.error):
            self._set_aside(path)
            return None

    def store(self, kind: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Writes the tensors, complete or not at all.

        Raises:
            ResourceError: the disk is full.
        """
        path = self.path(kind, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _packed(tensors, key))

    def _set_aside(self, path: Path) -> None:
        damaged = path.with_name(path.name + ".damaged")
        try:
            os.replace(path, damaged)
        except FileNotFoundError:  # another run that uses this cache was faster
            return
        self.set_aside.append(damaged)


def _packed(tensors: Mapping[str, Tensor], key: str) -> bytes:
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    return bytes_of(plain, metadata={"sha256": _sha256(plain, key)})  # one entry: the order of several is random


def _unpacked(data: bytes, key: str) -> Tensors:
    """Raises SafetensorError, ValueError, LookupError or struct.error where anything is not as `_packed` made it."""
    # Copies: what lies in a file begins at any multiple of 8 bytes, and torch puts its own at 64.
    tensors: Tensors = {name: _copied(tensor) for name, tensor in tensors_of(data).items()}
    (length,) = struct.unpack_from("<Q", data)
    recorded = json.loads(data[8 : 8 + length])["__metadata__"]["sha256"]
    if recorded != _sha256(tensors, key):
        raise ValueError("the tensors are not those that were stored")
    return tensors


def _copied(tensor: Tensor) -> Tensor:
    """A copy by a single thread: torch's threads wait for each other milliseconds where another process is busy."""
    copy = torch.empty_like(tensor)
    _bytes_of(copy)[:] = _bytes_of(tensor)
    return copy


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    return tensor.reshape(-1).view(torch.uint8).numpy()


def _sha256(tensors: Mapping[str, Tensor], key: str) -> str:
    """Over the key and the tensors' names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256(key.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(_bytes_of(tensor).data)
    return digest.hexdigest()
