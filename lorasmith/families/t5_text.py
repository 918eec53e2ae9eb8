"""Captions as tokens of T5. Knows no family."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families.t5_vocabulary import T5_TOKENS, t5_tokenizer_files
from lorasmith.libraries import importing_library


def t5_tokenizer(folder: Path | None, *, source: Path) -> Any:
    """transformers' T5Tokenizer from a folder; None: with T5's own vocabulary.

    `source` is the path that an error names.

    Raises:
        ModelError: `model_tokenizer`, also where the vocabulary is another: transformers makes a tokenizer of a folder
            without one too.
    """
    if folder is None:
        with TemporaryDirectory(prefix="lorasmith-") as own:
            for name, text in t5_tokenizer_files().items():
                (Path(own) / name).write_text(text, encoding="utf-8")
            return t5_tokenizer(Path(own), source=source)
    with importing_library():
        from transformers import T5TokenizerFast  # type: ignore[attr-defined]

    try:
        tokenizer = T5TokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("model_tokenizer", path=str(source)) from error
    if len(tokenizer) != T5_TOKENS:
        raise ModelError("model_tokenizer", path=str(source))
    return tokenizer
