"""Reads the TOML and JSON files that a command line of sd-scripts names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorasmith.config.toml_files import read_toml
from lorasmith.errors import ConfigError

MAX_BYTES = 64 * 2**20  # a metadata file lists every picture


def read_file(path: Path, kinds: Sequence[str]) -> dict[str, Any]:
    """The table in a file of one of these kinds: "toml", "json".

    Raises:
        ConfigError: no such file, another kind, no table, or too big.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in kinds:
        raise ConfigError("sd_file_kind", file=str(path), kinds=[f".{known}" for known in kinds])
    values = read_toml(path, MAX_BYTES) if kind == "toml" else _read_json(path)
    if not isinstance(values, dict):
        raise ConfigError("sd_file_no_table", file=str(path))
    return values


def _read_json(path: Path) -> Any:
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise ConfigError("config_too_big", file=str(path), bytes=path.stat().st_size, most=MAX_BYTES)
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError("config_missing", file=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError("config_encoding", file=str(path), byte=error.start) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise ConfigError("config_unreadable", file=str(path), reason=reason) from None
