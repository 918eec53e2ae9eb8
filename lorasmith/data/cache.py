"""What the encoders made of pictures and captions, on disk under a hash of everything it depends on.

One file a picture and one a caption, each encoded alone, so that none depends on what else was cached; read back only
if the SHA-256 inside still fits. Knows no family: encoders are functions that it is given, called only for what is
missing.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from lorasmith.data.files import BadFileError, read_whole, shown
from lorasmith.data.images import pixels
from lorasmith.data.types import CachedExample, Example
from lorasmith.errors import NonFiniteError, TrainerError
from lorasmith.runs.durable import write_atomically

FORMAT = 1  # goes up with every change to how pixels are cut or tensors stored
MAX_BYTES = 1 << 30  # of one file: the latents of the largest picture, or a caption's embeddings, take some megabytes
LATENTS, TEXT = "latents", "text"

Tensors = dict[str, Tensor]


# -- keys ------------------------------------------------------------------------------------------


def latents_key(example: Example, vae_hash: str) -> str:
    """Of the picture's bytes, how it is cut, and the VAE's weights; not of its name or caption."""
    return _key(
        image=example.image_sha256, resized=example.resized, bucket=example.bucket, crop=example.crop, vae=vae_hash
    )


def text_key(caption: str, encoder_hashes: Mapping[str, str], clip_skip: int) -> str:
    """Of the caption, the text encoders' weights and the layer taken; "vae" among the hashes does not count."""
    encoders = {name: sha for name, sha in encoder_hashes.items() if name != "vae"}
    return _key(caption=caption, encoders=encoders, clip_skip=clip_skip)


def _key(**parts: object) -> str:
    text = json.dumps({"format": FORMAT, "dtype": "float32", **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class EncodedBy:
    """The encoders of a run, as far as the keys depend on them."""

    hashes: Mapping[str, str]  # "vae" and each text encoder, as `ModelFamily.encoder_hashes` gives them
    clip_skip: int
    caches_text: bool  # False where a text encoder is trained: then captions become tokens, and nothing is stored

    def latents_key(self, example: Example) -> str:
        return latents_key(example, self.hashes["vae"])

    def text_key(self, caption: str) -> str:
        return text_key(caption, self.hashes, self.clip_skip)


# -- files -----------------------------------------------------------------------------------------


class EncoderCache:
    """A folder of cached tensors. Several runs may use one at the same time: equal keys hold equal bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set_aside: list[Path] = []  # damaged files found, under their new names; for a warning

    def path(self, kind: str, key: str) -> Path:
        return self.folder / kind / f"{key}.safetensors"

    def load(self, kind: str, key: str) -> Tensors | None:
        """The tensors, checked against their SHA-256; None where there are none.

        What does not check or is no file is renamed to `….damaged`, in place of an earlier one, and counts as missing.
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


class HoldingCache(EncoderCache):
    """A cache that keeps in memory what it has read or stored: each file is read and checked once, one that was just
    written not at all. What `text_held` makes of a caption's tensors is kept of them; files stay as they are."""

    def __init__(self, folder: Path, *, text_held: Callable[[Mapping[str, Tensor]], Tensors] = dict) -> None:
        super().__init__(folder)
        self._text_held = text_held
        self._held: dict[tuple[str, str], Tensors] = {}

    def load(self, kind: str, key: str) -> Tensors | None:
        if (kind, key) not in self._held:
            tensors = super().load(kind, key)
            if tensors is None:
                return None
            self._hold(kind, key, tensors)
        return self._held[kind, key]

    def store(self, kind: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        super().store(kind, key, tensors)
        self._hold(kind, key, tensors)

    def _hold(self, kind: str, key: str, tensors: Mapping[str, Tensor]) -> None:
        self._held[kind, key] = self._text_held(tensors) if kind == TEXT else dict(tensors)


def _packed(tensors: Mapping[str, Tensor], key: str) -> bytes:
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    return bytes_of(plain, metadata={"sha256": _sha256(plain, key)})  # one entry: the order of several is random


def _unpacked(data: bytes, key: str) -> Tensors:
    """Raises SafetensorError, ValueError, LookupError or struct.error where anything is not as `_packed` made it."""
    # Copies: what lies in a file begins at any multiple of 8 bytes, and torch puts its own at 64.
    tensors: Tensors = {name: tensor.clone() for name, tensor in tensors_of(data).items()}
    (length,) = struct.unpack_from("<Q", data)
    recorded = json.loads(data[8 : 8 + length])["__metadata__"]["sha256"]
    if recorded != _sha256(tensors, key):
        raise ValueError("the tensors are not those that were stored")
    return tensors


def _sha256(tensors: Mapping[str, Tensor], key: str) -> str:
    """Over the key and the tensors' names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256(key.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# -- encoding --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Missing:
    """What has to be encoded, in the order of the examples: one example for each lacking key, and captions."""

    pictures: tuple[Example, ...]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures) + len(self.captions)


def find_missing(cache: EncoderCache, examples: Iterable[Example], encoded_by: EncodedBy) -> Missing:
    """What the cache lacks for `examples`; every file there is read and checked, so a damaged one counts as lacking.

    The encoders are needed if the length is not 0.
    """
    examples = list(examples)
    pictures = {encoded_by.latents_key(example): example for example in reversed(examples)}
    lacking = {key for key in pictures if cache.load(LATENTS, key) is None}
    captions = dict.fromkeys(example.caption for example in examples) if encoded_by.caches_text else {}
    return Missing(
        pictures=tuple(one for key, one in reversed(pictures.items()) if key in lacking),
        captions=tuple(one for one in captions if cache.load(TEXT, encoded_by.text_key(one)) is None),
    )


def encode_missing(
    missing: Missing,
    cache: EncoderCache,
    *,
    encoded_by: EncodedBy,
    encode_image: Callable[[NDArray[np.float32]], Tensor],
    encode_caption: Callable[[str], Mapping[str, Tensor]],
    progress: Callable[[int, int], None],
) -> None:
    """Encodes one picture and one caption at a time and stores each before the next, so what is done stays done.

    `encode_image` takes (3, H, W) in [-1, 1] and gives (C, h, w); `encode_caption` gives the conditioning without a
    batch dimension; both are stored as float32. `progress(done, total)` is called after each.

    Raises:
        DatasetError: `dataset_problems`, a picture cannot be decoded or changed since the folder was scanned.
        NonFiniteError: `encoded_not_finite`, an encoder gave infinities or NaN; nothing of it is stored.
        ResourceError: the disk is full.
    """
    for done, example in enumerate(missing.pictures, start=1):
        latents = encode_image(pixels(example))
        _keep(cache, LATENTS, encoded_by.latents_key(example), {"latents": latents}, shown(example.image))
        progress(done, len(missing))
    for done, caption in enumerate(missing.captions, start=len(missing.pictures) + 1):
        _keep(cache, TEXT, encoded_by.text_key(caption), encode_caption(caption), caption)
        progress(done, len(missing))


def _keep(cache: EncoderCache, kind: str, key: str, encoded: Mapping[str, Tensor], what: str) -> None:
    tensors = {
        name: value.detach().to("cpu", torch.float32) if value.is_floating_point() else value.detach().cpu()
        for name, value in encoded.items()
    }
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise NonFiniteError("encoded_not_finite", what=what)
    cache.store(kind, key, tensors)


def load_examples(
    cache: EncoderCache,
    examples: Sequence[Example],
    *,
    encoded_by: EncodedBy,
    tokenize: Callable[[str], Mapping[str, Tensor]] | None = None,
) -> list[CachedExample]:
    """One for each example, in order; equal pictures and equal captions share their tensors.

    `tokenize` gives the tokens of a caption without a batch dimension; needed exactly where no text is cached.

    Raises:
        TrainerError: `cache_lost`, a file that was there a moment ago is gone or damaged: starting again makes it anew.
    """
    assert (tokenize is None) == encoded_by.caches_text
    latents: dict[str, Tensor] = {}
    texts: dict[str, Tensors] = {}
    found = []
    for example in examples:
        key = encoded_by.latents_key(example)
        if key not in latents:
            latents[key] = _there(cache, LATENTS, key)["latents"]
        if example.caption not in texts:
            texts[example.caption] = (
                _there(cache, TEXT, encoded_by.text_key(example.caption))
                if tokenize is None
                else dict(tokenize(example.caption))
            )
        text = texts[example.caption]
        found.append(
            CachedExample(latents[key], text, None) if tokenize is None else CachedExample(latents[key], None, text)
        )
    return found


def _there(cache: EncoderCache, kind: str, key: str) -> Tensors:
    tensors = cache.load(kind, key)
    if tensors is None:
        raise TrainerError("cache_lost", path=shown(cache.path(kind, key)))
    return tensors
