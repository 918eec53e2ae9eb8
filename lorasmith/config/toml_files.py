"""Reads and writes the two kinds of TOML file: the user's flat files (`lorasmith.toml`, `--config`), and run.toml with
sections."""

import re
import stat
import tomllib
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import Any

import tomli_w

from lorasmith.config import project_paths
from lorasmith.config.run import MAX_SHOWN, RunConfig, options, validated
from lorasmith.config.subsets import subset_options
from lorasmith.errors import ConfigError
from lorasmith.option_names import refusal

REFUSALS = {
    "foreign": "config_foreign_key",
    "needless": "config_needless_key",
    "mistyped": "config_unknown_key",
    "unknown": "config_unrecognised_key",
}
MAX_BYTES = 2**20
MAX_RUN_BYTES = 64 * 2**20  # it lists the pictures that are held out
MAX_DEPTH = 32
# A key of more than MAX_DEPTH parts, each a table in the last; the parser's time grows with the square of the parts.
_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*"""
# A line whose value is not in straight quotes, or with signs of an input method for Chinese in place of `=` and quotes.
_PLAIN = r"""["'\[{+\-0-9]|true\b|false\b|inf\b|nan\b"""
_OTHER_QUOTES = r"[\u2018\u2019\u201c\u201d\uff02\uff07]"
_UNQUOTED = re.compile(rf"\s*[\w-]+\s*(?:[:\uff1a\uff1d]|=\s*(?!{_PLAIN})\S|=.*{_OTHER_QUOTES})")
_DEEP = re.compile(rf"(?:^[ \t]*\[{{0,2}}|[{{,])[ \t]*(?:{_PART}){{{MAX_DEPTH}}}", re.MULTILINE)


def load_flat_toml(path: Path) -> dict[tuple[str, str], Any]:
    """The settings in a flat file, {(section, field): value}, not yet validated; keys are option names with `_`.

    Raises:
        ConfigError: no such file, not TOML, an unknown key (with a suggestion where it resembles an option, or is
            another trainer's), or a path with a control character that `\\` made; tables of
            subsets that are none.
    """
    known = options()
    values: dict[tuple[str, str], Any] = {}
    for key, value in read_toml(path, MAX_BYTES).items():
        if key == "dataset" and isinstance(value, dict):
            values["dataset", "subsets"] = _subsets(path, value)
            continue
        if key not in known:
            why, fields = refusal(key, known)
            raise ConfigError(REFUSALS[why], file=str(path), key=key, **fields)
        if known[key].facts.holds and isinstance(value, str):
            _check_path(path, key, value)
        values[known[key].section, known[key].field_name] = value
    return values


def _subsets(path: Path, dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """The tables `[[dataset.subsets]]`, whose keys are checked with the config."""
    for key in dataset:
        if key != "subsets":
            raise ConfigError("config_unknown_key", file=str(path), key=f"dataset.{key}", nearest="dataset.subsets")
    tables = dataset.get("subsets", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("config_subsets", file=str(path))
    for table in tables:
        for key, option in subset_options(options()).items():
            if option.facts.holds and isinstance(table.get(key), str):
                _check_path(path, key, table[key])
    return tables


def load_run_toml(path: Path) -> RunConfig:
    """The config of a run, with absolute paths.

    Raises:
        ConfigError: missing or damaged.
    """
    config = validated(RunConfig, read_toml(path, MAX_RUN_BYTES))
    return config.with_values(project_paths.absolute(config, path.parent))


def dump_run_toml(config: RunConfig, root: Path | None = None) -> bytes:
    """`config` as the bytes of run.toml, without the values that are None, which TOML cannot write. With `root`, the
    run folder, paths inside the project are relative to it, so that a project can be copied or moved as a whole."""
    if root is not None:
        config = config.with_values(project_paths.relative(config, root))
    return tomli_w.dumps(_without_none(config.model_dump(mode="json"))).encode()


def read_toml(path: Path, most: int) -> dict[str, Any]:
    """The table in a TOML file of at most `most` bytes.

    Raises:
        ConfigError: no such file, no TOML, or too big.
    """
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # a pipe or a device might never end
            raise ConfigError("config_irregular", file=str(path))
        if status.st_size > most:
            raise ConfigError("config_too_big", file=str(path), bytes=status.st_size, most=most)
        return _parsed(path, path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError("config_missing", file=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError("config_encoding", file=str(path), byte=error.start) from None
    except OSError as error:
        raise ConfigError("config_unreadable", file=str(path), reason=str(error)) from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        if _DEEP.search(text) is not None:
            raise RecursionError
        values = tomllib.loads(text)
        if _is_deep(values):
            raise RecursionError
    except RecursionError:
        raise ConfigError("config_too_deep", file=str(path), most=MAX_DEPTH) from None
    except ValueError as error:  # TOMLDecodeError is one, and so is a number of too many digits
        line = _line_named(text, str(error))
        if re.search(r'"[^"]*\\', line):
            raise ConfigError("config_backslash", file=str(path), line=line) from None
        if _UNQUOTED.match(line):
            raise ConfigError("config_quotes", file=str(path), line=line) from None
        raise ConfigError("config_unreadable", file=str(path), reason=str(error)) from None
    return values


def _line_named(text: str, complaint: str) -> str:
    """The line that the parser complains about; "" where it names none."""
    place = re.search(r"at line ([0-9]+)|at end of document", complaint)
    lines = text.rstrip().splitlines()
    number = 0 if place is None else int(place[1] or len(lines))
    return lines[number - 1].strip()[:MAX_SHOWN] if 1 <= number <= len(lines) else ""


def _check_path(file: Path, key: str, value: str) -> None:
    """Refuses a path with a control character, unless that path exists."""
    if not any(unicodedata.category(sign) == "Cc" for sign in value):
        return
    with suppress(OSError, ValueError):
        if (file.parent / value).exists():
            return
    raise ConfigError("config_control_sign", file=str(file), key=key, value=value[:MAX_SHOWN])


def _is_deep(values: Any) -> bool:
    """Whether tables and lists are nested deeper than MAX_DEPTH."""
    level = [values]
    for _ in range(MAX_DEPTH):
        inside = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for group in inside for value in group if isinstance(value, dict | list)]
    return bool(level)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items() if v is not None}
