"""The small files of a diffusers folder, read whole, but never a pipe and never a giant. Knows no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families.headers import check_regular

MAX_JSON_BYTES = 16 * 2**20
MAX_TOKENIZER_BYTES = 64 * 2**20


def check_tokenizer(folder: Path) -> None:
    """Nothing where a library can read the files of a tokenizer whole.

    Raises:
        ModelError: `model_damaged`, `model_irregular`, `model_unreadable`.
    """
    if not folder.is_dir():
        raise ModelError("model_damaged", path=str(folder), where="tokenizer")
    for file in sorted(folder.iterdir()):
        if not file.is_dir():
            check_regular(file)
            if file.stat().st_size > MAX_TOKENIZER_BYTES:
                raise ModelError("model_damaged", path=str(file), where="tokenizer")


def read_json(path: Path) -> dict[str, Any]:
    """The table that a JSON file holds.

    Raises:
        ModelError: `model_damaged`, `model_irregular`, `model_unreadable`.
    """
    check_regular(path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelError("model_damaged", path=str(path), where="JSON")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError("model_unreadable", path=str(path), reason=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ModelError("model_damaged", path=str(path), where="JSON") from error
    if not isinstance(content, dict):
        raise ModelError("model_damaged", path=str(path), where="JSON")
    return content
