"""Results of reading picture files, kept so that a second scan reads only the files that have changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorasmith.data.types import Size


@dataclass(frozen=True, slots=True)
class SeenFile:
    """The facts of a picture file at the time when it was read."""

    length: int  # bytes
    modified_ns: int
    size: Size  # pixels, after EXIF orientation
    sha256: str


Seen = Mapping[str, SeenFile]  # by path


def file_facts(path: Path) -> tuple[int, int] | None:
    """Length and time of the last change; None where the system does not give them."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns


def unchanged(path: Path, seen: Seen) -> SeenFile | None:
    """The facts of an earlier reading, where the file still has the length and the time of that reading."""
    known = seen.get(str(path))
    return known if known is not None and file_facts(path) == (known.length, known.modified_ns) else None


def encoded(seen: Seen) -> bytes:
    """The facts as JSON."""
    rows = {path: [file.length, file.modified_ns, list(file.size), file.sha256] for path, file in seen.items()}
    return json.dumps(rows).encode()


def decoded(data: bytes) -> Seen:
    """The facts from JSON."""
    return {path: SeenFile(row[0], row[1], Size(*row[2]), row[3]) for path, row in json.loads(data).items()}
