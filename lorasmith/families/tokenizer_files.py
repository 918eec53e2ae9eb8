"""The folder from which a library reads the tokenizer of a model. Needs no torch. Knows no family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from lorasmith.families.weights import BaseWeights


@contextmanager
def tokenizer_folder(weights: BaseWeights, text_encoder: str, usual: Callable[[], Mapping[str, str]]) -> Iterator[Path]:
    """The tokenizer's folder in a diffusers folder; else a temporary folder with the files that the single file of the
    model states, or the `usual` files, by name."""
    name = weights.names.tokenizers[text_encoder]
    files = weights.configs[name]
    if files is None and weights.layout == "diffusers":
        yield weights.path / name
        return
    with TemporaryDirectory(prefix="lorasmith-") as folder:
        for file, text in (usual() if files is None else files).items():
            (Path(folder) / Path(file).name).write_text(text, encoding="utf-8")
        yield Path(folder)
