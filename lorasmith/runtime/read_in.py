"""Files that settings name and whose contents the run keeps: sample prompts, and the thumbnail of the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.config import Request
from lorasmith.runtime.prompt_files import with_prompts_of
from lorasmith.runtime.thumbnail import with_thumbnail


def with_files_read(values: Mapping[tuple[str, str], Any], request: Request, here: Path) -> dict[tuple[str, str], Any]:
    """The settings with the contents of these files, so that a run does not depend on them later.

    Raises:
        ConfigError: `prompts_unreadable`, `thumbnail_unusable`.
    """
    return with_prompts_of(request.sample_prompts, with_thumbnail(values, here), here)
