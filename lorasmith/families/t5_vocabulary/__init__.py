"""T5's vocabulary, which files of a transformer leave out, and the config of its tokenizer.

The vocabulary was published by Google; its licence lies beside it. Needs the standard library only.
"""

from __future__ import annotations

import gzip
from pathlib import Path

T5_TOKENS = 32_100
"""The padding, the end, the unknown token, 31,997 pieces of words, 100 marks of gaps. Models have 32,128 rows."""

_HERE = Path(__file__).parent


def t5_tokenizer_files() -> dict[str, str]:
    """The files of a tokenizer folder, by name."""
    return {
        "tokenizer.json": gzip.decompress((_HERE / "tokenizer.json.gz").read_bytes()).decode("utf-8"),
        "tokenizer_config.json": (_HERE / "tokenizer_config.json").read_text(encoding="utf-8"),
    }
