"""Reads files of sample prompts: .txt with a prompt a line, .toml and .json with tables, as sd-scripts reads them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.errors import ConfigError

PROMPTS = ("evaluation", "sample_prompts")
MAX_BYTES = 2**20
FLAGS = {
    "negative_prompt": "n",
    "width": "w",
    "height": "h",
    "seed": "d",
    "sample_steps": "s",
    "scale": "l",
    "guidance_scale": "g",
    "sample_sampler": "ss",
    "controlnet_image": "cn",
    "cfg_trunc_ratio": "ctr",
    "renorm_cfg": "rcfg",
    "flow_shift": "fs",
}
"""Key of a table -> flag of a line."""


def with_prompts_of(file: str, values: Mapping[tuple[str, str], Any], here: Path) -> dict[tuple[str, str], Any]:
    """The settings with the prompts of a file added to theirs; "" adds none.

    Raises:
        ConfigError: `prompts_unreadable`.
    """
    if not file:
        return dict(values)
    return {**values, PROMPTS: (*values.get(PROMPTS, ()), *prompts_in(here / file))}


def prompts_in(path: Path) -> tuple[str, ...]:
    """The prompts of a file, each as a line with flags.

    Raises:
        ConfigError: `prompts_unreadable`, no such file, not the format of its name, or a key that no prompt has.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return tuple(_lines(path.suffix.lower(), path.read_bytes().decode("utf-8-sig")))
    except OSError as error:
        raise ConfigError("prompts_unreadable", file=str(path), reason=error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError("prompts_unreadable", file=str(path), reason=str(error)) from None


def _lines(suffix: str, text: str) -> list[str]:
    if suffix == ".toml":
        shared = tomllib.loads(text).get("prompt", {})
        if not isinstance(shared, dict) or not isinstance(shared.get("subset"), list):
            raise ValueError("no [[prompt.subset]]")
        defaults = {key: value for key, value in shared.items() if key != "subset"}
        return [_line({**defaults, **subset}) for subset in shared["subset"]]
    if suffix == ".json":
        rows = json.loads(text)
        if not isinstance(rows, list):
            raise ValueError("not a list")
        return [row if isinstance(row, str) else _line(row) for row in rows]
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def _line(table: Any) -> str:
    """A table as a line with flags."""
    if not isinstance(table, dict) or not isinstance(table.get("prompt"), str):
        raise ValueError('a prompt without "prompt"')
    unknown = table.keys() - FLAGS.keys() - {"prompt", "enum"}
    if unknown:
        raise ValueError(f"unknown key {min(unknown)}")
    texts = [table["prompt"], *(str(table[key]) for key in FLAGS if table.get(key) is not None)]
    if any(" --" in text for text in texts):
        raise ValueError('" --" within a text')
    flags = [f"--{flag} {table[key]}" for key, flag in FLAGS.items() if table.get(key) not in (None, "")]
    return " ".join([table["prompt"], *flags]).replace("\n", " ").strip()
