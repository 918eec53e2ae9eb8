"""Reads a file of another trainer and recognises whose it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorasmith.errors import ConfigError
from lorasmith.other_trainers.ai_toolkit import from_ai_toolkit, is_ai_toolkit
from lorasmith.other_trainers.imported import Imported
from lorasmith.other_trainers.kohya_ss import from_kohya_ss, is_kohya_ss
from lorasmith.other_trainers.onetrainer import from_onetrainer, is_onetrainer

MAX_BYTES = 2**22


def read_import(path: Path, here: Path) -> Imported:
    """The settings of a configuration of kohya_ss (JSON), OneTrainer (JSON) or ai-toolkit (YAML, JSON).

    Raises:
        ConfigError: `import_missing`, `import_unreadable`; `import_unknown`, none of the three; `import_no_lora`,
            `import_other_model`, `import_adapter`.
    """
    table = _read(path)
    if not isinstance(table, Mapping):
        raise ConfigError("import_unknown", file=str(path))
    if is_ai_toolkit(table):
        found = from_ai_toolkit(table)
    elif is_onetrainer(table):
        found = from_onetrainer(table, lambda name: _list_in(name, path, here))
    elif is_kohya_ss(table):
        found = from_kohya_ss(table)
    else:
        raise ConfigError("import_unknown", file=str(path))
    return found.checked()


def _list_in(name: str, config: Path, here: Path) -> list[Any] | None:
    """The list in another file that a configuration names: from the current folder, or from one of those above it."""
    for folder in (here, *config.absolute().parents):
        if (folder / name).is_file():
            found = _read(folder / name)
            return found if isinstance(found, list) else None
    return None


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        text = path.read_bytes().decode("utf-8-sig")
        return _yaml(text) if path.suffix.lower() in (".yaml", ".yml") else json.loads(text)
    except FileNotFoundError:
        raise ConfigError("import_missing", file=str(path)) from None
    except OSError as error:
        raise ConfigError("import_unreadable", file=str(path), reason=error.strerror or str(error)) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError("import_unreadable", file=str(path), reason=str(error)) from None


def _yaml(text: str) -> Any:
    import yaml  # slow

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
