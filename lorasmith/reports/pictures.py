"""Pictures as data URIs, small enough for a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from lorasmith.data.files import BadFileError
from lorasmith.data.images import open_rgb

SIDE = 288  # pixels: sharp on a phone, 15 kB each
QUALITY = 84


def data_uri(path: Path) -> str:
    """The picture as a data URI, at most SIDE pixels a side; "" where it is gone or cannot be read."""
    try:
        picture = open_rgb(path)
    except (BadFileError, OSError):
        return ""
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
