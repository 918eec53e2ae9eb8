"""The two kinds of TOML file: flat ones a person writes (`lorasmith.toml`, `--config`), and run.toml with sections."""

import difflib
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from lorasmith.config.run import RunConfig, options, validated
from lorasmith.errors import ConfigError


def load_flat_toml(path: Path) -> dict[tuple[str, str], Any]:
    """The settings a person wrote, {(section, field): value}, not yet validated; keys are option names with `_`.

    Raises:
        ConfigError: no such file, not TOML, or an unknown key, named with the nearest valid one.
    """
    known = options()
    values: dict[tuple[str, str], Any] = {}
    for key, value in _read(path).items():
        if key not in known:
            raise ConfigError("config_unknown_key", file=str(path), key=key, nearest=_nearest(key, list(known)))
        values[known[key].section, known[key].field_name] = value
    return values


def load_run_toml(path: Path) -> RunConfig:
    """The config a run keeps.

    Raises:
        ConfigError: missing or damaged.
    """
    return validated(RunConfig, _read(path))


def dump_run_toml(config: RunConfig) -> bytes:
    """`config` as run.toml; what is None is left out, as TOML has no word for it."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json"))).encode()


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError("config_missing", file=str(path)) from None
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError("config_unreadable", file=str(path), reason=str(error)) from None


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0)
    return close[0]


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}
