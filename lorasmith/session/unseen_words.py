"""Words of captions and prompts that the text encoder does not see, as findings.

Knows a family by its protocol only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.config import RunConfig
from lorasmith.data.findings import of_long_captions
from lorasmith.data.types import Example
from lorasmith.families.base import ModelFamily


def unseen_words(
    config: RunConfig, family: ModelFamily, examples: Sequence[Example]
) -> list[tuple[str, dict[str, Any]]]:
    """(code, fields) of captions, and of prompts for samples, that are cut off."""
    limit = family.caption_tokens
    root = Path(config.dataset.folder)
    found = of_long_captions(examples, root, first_unseen=family.first_unseen_tag, limit=limit)
    noted = [(one.code, one.fields) for one in found]
    tags = [tag for tag in map(family.first_unseen_tag, config.evaluation.sample_prompts) if tag]
    if tags:
        noted.append(("prompts_cut", {"count": len(tags), "limit": limit, "tag": tags[0]}))
    return noted
