"""Splits a command line of sd-scripts into arguments and their values, and reads `--config_file`.

Arguments may be shortened as far as they stay unique, a repeated argument counts as given last, and the command line
wins over the file: as argparse has it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.arguments import Argument, Script, arguments, converted, known_to, unknown
from lorasmith.sd_scripts.files import read_file
from lorasmith.sd_scripts.table import NO_EFFECT

KEYS_OF_OTHERS = frozenset({"epoch", "noise_offset_type", "lr_restart_cycles", "sample_dir"})
"""Keys that programs on top of sd-scripts write into its files; sd-scripts ignores them."""
ABSENT = "\0absent"  # stands for a missing value; cannot be typed
IN_FILE = {
    "sd_unknown": "sd_unknown_in_file",
    "sd_mistyped": "sd_mistyped_in_file",
    "sd_other_script": "sd_other_script_in_file",
    "sd_other_script_taken": "sd_other_script_in_file",
}
"""Code of an error about a typed name -> the code for a key of a file."""
OF_DATASETS = frozenset({"general", "datasets", "subsets"})
"""Tables of a `--dataset_config`, which people and other programs write into a `--config_file` too."""
OURS = ("help", "lang")  # options of this program that go with any command line


@dataclass(frozen=True, slots=True)
class Given:
    """The arguments that were given, on the command line or in its file, with their values."""

    values: Mapping[str, Any]
    here: Path = Path()  # where relative paths start
    script: Script = "train_network"
    ours: Mapping[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the argument was given, a flag as true."""
        value = self.values.get(name)
        return value is not None and value is not False

    def value(self, name: str) -> Any:
        """The value given, or sd-scripts' default; None where there is neither."""
        given = self.values.get(name)
        if given is not None:
            return given
        argument = arguments()[name]
        if argument.kind == "flag":
            return False
        return converted(argument, argument.default_of(self.script), name)


class _Parser(argparse.ArgumentParser):
    """Splits words into arguments. Leaves the wording of errors to the translator."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def parsed(words: Sequence[str], script: Script, here: Path) -> Given:
    """The arguments of a command line, over those of its `--config_file`.

    Raises:
        ConfigError: an argument that is unknown, shortened too far, without its value or with a wrong value; a file
            that cannot be read.
    """
    known = known_to(script)
    typed = _typed(words, known, script)
    ours = {name: str(typed.pop(name)) for name in OURS if name in typed}
    values = {name: converted(known[name], value, f"--{name}") for name, value in typed.items()}
    path = values.get("config_file")
    if path and not values.get("output_config"):
        values = {**from_file(here / _with_ending(path), script), **values}
    return Given(values, here, script, ours)


def from_file(path: Path, script: Script) -> dict[str, Any]:
    """The arguments in a `--config_file`: sections are only for the reader.

    Raises:
        ConfigError: the file cannot be read, or has a key that is no argument, or a wrong value.
    """
    known = known_to(script)
    found: dict[str, Any] = {}
    for key, value in _flat(read_file(path, ("toml",))):
        if key in OF_DATASETS:
            raise ConfigError("sd_datasets_in_config", file=str(path), key=key)
        if key in KEYS_OF_OTHERS:
            continue
        if key in NO_EFFECT:
            found[key] = value or None  # sd-scripts checks no value of a file
            continue
        if key not in known:
            error = unknown(key, key, script)
            raise ConfigError(IN_FILE[error.code], file=str(path), **error.fields)
        found[key] = converted(known[key], value, key)
    return found


def config_file(given: Given, here: Path) -> Path:
    """The path of the `--config_file`, whose ending may be left out."""
    return here / _with_ending(str(given.value("config_file")))


def _with_ending(path: str) -> str:
    return path if path.endswith(".toml") else f"{path}.toml"


def _flat(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values of a file, those of its sections included: of equal keys the later wins."""
    pairs: list[tuple[str, Any]] = []
    for key, value in table.items():
        pairs += value.items() if isinstance(value, dict) else [(key, value)]
    return pairs


def _typed(words: Sequence[str], known: Mapping[str, Argument], script: Script) -> dict[str, Any]:
    parser = _Parser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for argument in known.values():
        option = f"--{argument.name}"
        if argument.is_list:
            parser.add_argument(option, nargs="*")
        elif argument.kind == "flag":
            parser.add_argument(option, action="store_const", const=True)
        else:
            parser.add_argument(option, nargs="?", const=ABSENT)
    parser.add_argument("-h", "--help", action="store_const", const=True)
    parser.add_argument("--lang", nargs="?", const=ABSENT)
    try:
        found, rest = parser.parse_known_args([_spelt_out(word, known) for word in words])
    except argparse.ArgumentError as error:
        name = (error.argument_name or "").split("/")[-1]
        raise ConfigError("sd_flag_with_value", argument=name) from None
    for word in rest:
        if word.startswith("-"):
            given = word.split("=")[0]
            raise unknown(given.lstrip("-"), given, script)
    if rest:
        raise ConfigError("argument_unexpected", argument=rest[0])
    typed = {name: value for name, value in vars(found).items() if value is not None}
    for name, value in typed.items():
        if value == ABSENT:
            raise ConfigError("sd_without_value", argument=f"--{name}")
    return typed


def _spelt_out(word: str, known: Mapping[str, Argument]) -> str:
    """A shortened argument in full.

    Raises:
        ConfigError: `sd_ambiguous`, several arguments begin with it.
    """
    name, sign, value = word.partition("=")
    short = name.removeprefix("--")
    if not name.startswith("--") or not short or short in known or short in OURS:
        return word
    longer = [other for other in known if other.startswith(short)]
    if len(longer) > 1:
        raise ConfigError("sd_ambiguous", argument=name, candidates=[f"--{other}" for other in longer])
    return f"--{longer[0]}{sign}{value}" if longer else word
