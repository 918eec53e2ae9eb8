"""What a scan has read of the picture files, so that a second scan need not read those that have not changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorasmith.data.types import Size


@dataclass(frozen=True, slots=True)
class SeenFile:
    """A picture file as it was when it was read."""

    length: int  # bytes
    modified_ns: int
    size: Size  # pixels, after EXIF orientation
    sha256: str


Seen = Mapping[str, SeenFile]  # by path


def file_facts(path: Path) -> tuple[int, int] | None:
    """Length and time of the last change; None where the system refuses to say."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_size, facts.st_mtime_ns


def unchanged(path: Path, seen: Seen) -> SeenFile | None:
    """What was read of the file, where it still has the length and the time that it had."""
    known = seen.get(str(path))
    return known if known is not None and file_facts(path) == (known.length, known.modified_ns) else None


def encoded(seen: Seen) -> bytes:
    """As JSON."""
    rows = {path: [file.length, file.modified_ns, list(file.size), file.sha256] for path, file in seen.items()}
    return json.dumps(rows).encode()


def decoded(data: bytes) -> Seen:
    """The way back."""
    return {path: SeenFile(row[0], row[1], Size(*row[2]), row[3]) for path, row in json.loads(data).items()}
