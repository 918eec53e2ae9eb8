"""The alphas of files in PEFT's and diffusers' names, which hold none: PEFT writes `adapter_config.json` beside the
file, diffusers the same settings into its metadata, with the component before each name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorasmith.errors import ModelError
from lorasmith.families.headers import read_json

METADATA_KEY = "lora_adapter_metadata"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_MAX_PATTERNS = 10_000


@dataclass(frozen=True, slots=True)
class PeftSettings:
    """The settings that PEFT calls LoraConfig."""

    values: Mapping[str, Any]

    def alpha_of(self, path: str, rank: int) -> float | None:
        """The alpha by which readers divide the rank, for the layer at this path; None where it is not stated."""
        alpha: Any = self.values.get("lora_alpha")
        patterns = self.values.get("alpha_pattern")
        if isinstance(patterns, Mapping) and len(patterns) <= _MAX_PATTERNS:
            # PEFT: the first pattern that is the path or its end. Patterns are taken as names, not as expressions.
            alpha = next((value for name, value in patterns.items() if _is_end(str(name), path)), alpha)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            return None
        return float(alpha) * (math.sqrt(rank) if self.values.get("use_rslora") is True else 1)


def read_peft_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, PeftSettings]:
    """The settings by component, as far as the file's metadata or its neighbour state them.

    Raises:
        ModelError: `model_damaged`, the neighbour is no JSON object.
    """
    if METADATA_KEY in metadata:
        try:
            stated = json.loads(metadata[METADATA_KEY])
        except (ValueError, RecursionError):
            raise ModelError("model_damaged", path=str(path), where=METADATA_KEY) from None
        return _by_component(stated) if isinstance(stated, dict) else {}
    beside = path.with_name(CONFIG_FILE)
    if path.name == WEIGHTS_FILE and beside.is_file():
        settings = PeftSettings(read_json(beside))
        return {"denoiser": settings, "text_encoder": settings}
    return {}


def _by_component(stated: Mapping[str, Any]) -> dict[str, PeftSettings]:
    values: dict[str, dict[str, Any]] = {}
    for name, value in stated.items():
        prefix, _, setting = name.partition(".")
        component = "denoiser" if prefix in ("unet", "transformer") else prefix
        values.setdefault(component, {})[setting] = value
    return {component: PeftSettings(settings) for component, settings in values.items()}


def _is_end(name: str, path: str) -> bool:
    plain = re.sub(r"^\^|\$$", "", name).replace("\\.", ".")
    return path == plain or path.endswith(f".{plain}")
