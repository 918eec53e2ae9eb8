"""The thumbnail in a LoRA's metadata: a picture that --metadata names by its path."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.errors import ConfigError

SPEC = ("export", "model_spec")
MAX_THUMBNAIL = 140_000  # bytes: as many as the text of a description may hold


def with_thumbnail(values: Mapping[tuple[str, str], Any], here: Path) -> dict[tuple[str, str], Any]:
    """The settings with the file of the thumbnail read in, so that every export has the same.

    Raises:
        ConfigError: `thumbnail_unusable`.
    """
    spec = values.get(SPEC)
    if not isinstance(spec, dict) or not isinstance(spec.get("thumbnail"), str):
        return dict(values)
    return {**values, SPEC: {**spec, "thumbnail": _data_url(spec["thumbnail"], here)}}


def _data_url(value: str, here: Path) -> str:
    """The thumbnail as a `data:` URL; a path is read.

    Raises:
        ConfigError: `thumbnail_unusable`, there is no such file, no picture by its name, or a large file.
    """
    if value.startswith("data:"):
        return value
    path = here / value
    kind, _ = mimetypes.guess_type(path.name)
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_THUMBNAIL else b""
    except OSError as error:
        raise ConfigError("thumbnail_unusable", path=str(path), reason=error.strerror or str(error)) from None
    if not data or not (kind or "").startswith("image/"):
        raise ConfigError("thumbnail_unusable", path=str(path), reason=f"{kind}, {path.stat().st_size} bytes")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
