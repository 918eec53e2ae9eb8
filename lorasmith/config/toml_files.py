"""The two kinds of TOML file: flat ones a person writes (`lorasmith.toml`, `--config`), and run.toml with sections."""

import difflib
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from lorasmith.config.run import RunConfig, options, validated
from lorasmith.errors import ConfigError

MOST_BYTES = 2**20
MOST_RUN_BYTES = 64 * 2**20  # it lists the pictures that are held out
MOST_DEPTH = 32
# A key of more parts, which makes so many tables in each other; the parser's time grows with the square of them.
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*"""
_DEEP = re.compile(rf"(?:^[ \t]*\[{{0,2}}|[{{,])[ \t]*(?:{_PART}){{{MOST_DEPTH}}}", re.MULTILINE)


def load_flat_toml(path: Path) -> dict[tuple[str, str], Any]:
    """The settings a person wrote, {(section, field): value}, not yet validated; keys are option names with `_`.

    Raises:
        ConfigError: no such file, not TOML, or an unknown key, named with the nearest valid one.
    """
    known = options()
    values: dict[tuple[str, str], Any] = {}
    for key, value in _read(path, MOST_BYTES).items():
        if key not in known:
            raise ConfigError("config_unknown_key", file=str(path), key=key, nearest=_nearest(key, list(known)))
        values[known[key].section, known[key].field_name] = value
    return values


def load_run_toml(path: Path) -> RunConfig:
    """The config a run keeps.

    Raises:
        ConfigError: missing or damaged.
    """
    return validated(RunConfig, _read(path, MOST_RUN_BYTES))


def dump_run_toml(config: RunConfig) -> bytes:
    """`config` as run.toml; what is None is left out, as TOML has no word for it."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json"))).encode()


def _read(path: Path, most: int) -> dict[str, Any]:
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # a pipe or a device might never end
            raise ConfigError("config_irregular", file=str(path))
        if status.st_size > most:
            raise ConfigError("config_too_big", file=str(path), bytes=status.st_size, most=most)
        text = path.read_bytes().decode("utf-8-sig")
        if _DEEP.search(text) is not None:
            raise RecursionError
        values = tomllib.loads(text)
        if _is_deep(values):
            raise RecursionError
        return values
    except FileNotFoundError:
        raise ConfigError("config_missing", file=str(path)) from None
    except RecursionError:
        raise ConfigError("config_too_deep", file=str(path), most=MOST_DEPTH) from None
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError("config_unreadable", file=str(path), reason=str(error)) from None


def _is_deep(values: Any) -> bool:
    """Whether tables and lists stand in each other deeper than MOST_DEPTH."""
    level = [values]
    for _ in range(MOST_DEPTH):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for group in inside for one in group if isinstance(one, dict | list)]
    return bool(level)


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0)
    return close[0]


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}
