"""Pictures small enough to be part of a page. Knows neither page nor run."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from lorasmith.data.files import BadFileError
from lorasmith.data.images import open_rgb

SIDE = 288  # pixels: sharp on a phone, 15 kB each
QUALITY = 84


class Embedder:
    """Data URIs of pictures, each made once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def uri(self, path: Path) -> str:
        """The picture as a data URI, at most SIDE pixels a side; "" where it is gone or cannot be read."""
        if path not in self._known:
            self._known[path] = _uri(path)
        return self._known[path]


def _uri(path: Path) -> str:
    try:
        picture = open_rgb(path)
    except (BadFileError, OSError):
        return ""
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    picture.save(held, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"
