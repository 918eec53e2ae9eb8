"""The training of a LoRA, as the metadata of its file state it. Metadata are texts that anyone can write: nothing here
trusts them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

MAX_TAGS = 20
MAX_TEXT = 200  # characters of a value that is shown
_MAX_JSON = 16 * 2**20  # characters

_NAMED = {  # fact -> keys that state it; the first with a value counts
    "title": ("modelspec.title", "ss_output_name"),
    "author": ("modelspec.author",),
    "trigger": ("modelspec.trigger_phrase",),
    "base_model": ("ss_sd_model_name",),
    "base_version": ("ss_base_model_version", "modelspec.architecture"),
    "prediction": ("modelspec.prediction_type",),
    "steps": ("ss_steps", "ss_max_train_steps"),
    "epochs": ("ss_epoch", "ss_num_epochs"),
    "lr": ("ss_unet_lr", "ss_learning_rate"),
    "text_encoder_lr": ("ss_text_encoder_lr",),
    "optimizer": ("ss_optimizer",),
    "lr_schedule": ("ss_lr_scheduler",),
    "batch_size": ("ss_total_batch_size", "ss_batch_size_per_device"),
    "pictures": ("ss_num_train_images",),
    "resolution": ("modelspec.resolution", "ss_resolution"),
    "precision": ("ss_mixed_precision",),
    "clip_skip": ("ss_clip_skip",),
    "seed": ("ss_seed",),
    "module": ("ss_network_module",),
    "rank": ("ss_network_dim",),
    "alpha": ("ss_network_alpha",),
}


def training_facts(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The facts that are stated, as short texts; `tags` are the commonest with their counts."""
    facts: dict[str, Any] = {}
    for fact, keys in _NAMED.items():
        values = (" ".join(metadata.get(key, "").split()) for key in keys)
        value = next((value for value in values if value not in ("", "None", "null")), "")
        if value:
            facts[fact] = value[:MAX_TEXT]
    date = metadata.get("modelspec.date", "") or _date(metadata.get("ss_training_finished_at", ""))
    if date:
        facts["date"] = date[:MAX_TEXT]
    tags = _tags(metadata.get("ss_tag_frequency", ""))
    if tags:
        facts["tags"] = tags
    return facts


def _date(seconds: str) -> str:
    """The time that sd-scripts writes as seconds since 1970."""
    if not re.fullmatch(r"\d{9,11}(\.\d+)?", seconds):
        return ""
    return datetime.fromtimestamp(float(seconds), UTC).isoformat(timespec="seconds")


def _tags(text: str) -> dict[str, int]:
    """The commonest tags of all folders."""
    if not text or len(text) > _MAX_JSON:
        return {}
    try:
        folders = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    counted: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if type(count) is int and count > 0:
                counted[tag.strip()[:MAX_TEXT]] += count
    return dict(counted.most_common(MAX_TAGS))
