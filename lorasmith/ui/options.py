"""Parses the command line of `train`: an argument for each option of the config model, and the few that are no
settings.

Defaults, types and ranges are the model's; this module knows only how they are typed.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, get_args

from lorasmith.config import Option, Request, RunConfig, options
from lorasmith.config.run import validated
from lorasmith.errors import ConfigError
from lorasmith.option_names import refusal

Values = dict[tuple[str, str], Any]
Mode = Literal["", "new", "continue"]
Wants = Literal["", "help", "help-all", "version"]  # to read instead of to train


class CommandOption(NamedTuple):
    """An option of the command that is no setting."""

    name: str
    value: str = ""  # what stands for its value in the help; "" for a flag
    common: bool = False  # shown by --help


COMMAND_OPTIONS = (
    CommandOption("new", common=True),
    CommandOption("continue", common=True),
    CommandOption("from", "STATE|best", common=True),
    CommandOption("config", "FILE", common=True),
    CommandOption("version"),
    CommandOption("help"),
    CommandOption("help-all"),
)
STEPS, EPOCHS = ("request", "steps"), ("request", "epochs")
REFUSALS = {
    "foreign": "option_foreign",
    "needless": "option_needless",
    "mistyped": "option_unknown",
    "unknown": "option_unrecognised",
}
PAIRS = {
    "optimizer-option": "weight_decay=0.01",
    "lr-scheduler-args": "lr_end=1e-6",
    "block-rank": "down_blocks.1=4",
    "block-lr": "down_blocks.1=0.5",
    "metadata": "author=Ann",
}
"""A pair to show, for each option that takes K=V."""
_NEGATIVE = re.compile(r"-\.?\d")
_ONE_DASH = re.compile(r"-(?!-|h$).")  # a word that is none of the options
ABSENT = "\0absent"  # stands for a missing value; cannot be typed


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The command line, checked option by option."""

    mode: Mode
    from_state: str
    config: Path | None
    values: Values
    wants: Wants


class _Parser(argparse.ArgumentParser):
    """Splits words into options. Leaves the wording of errors to the translator."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def option_names() -> list[str]:
    """The names of all options of `train`, without dashes: those of the command, then the settings."""
    return [*(own.name for own in COMMAND_OPTIONS), *(option.name for option in options().values())]


def parse(arguments: Sequence[str]) -> CommandLine:
    """The command line of `train`.

    Raises:
        ConfigError: an option that is unknown, without its value, with one it does not take, or at odds with another.
    """
    parser = _build_parser()
    try:
        typed, rest = parser.parse_known_args(_joined(arguments))
    except argparse.ArgumentError as error:
        name = (error.argument_name or "").split("/")[0].lstrip("-")
        raise ConfigError("option_flag", option=name) from None
    given = {key: value for key, value in vars(typed).items() if value is not None}
    readings: tuple[Wants, ...] = ("help", "help-all", "version")
    for wants in readings:
        if wants in given:
            return CommandLine("", "", None, {}, wants)
    _refuse_unknown(rest)
    for key, value in given.items():
        if value == ABSENT or (isinstance(value, list) and ABSENT in value):
            raise ConfigError("option_without_value", option=key.replace("_", "-"))
    return CommandLine(
        mode=_mode(given),
        from_state=given.get("from", ""),
        config=Path(given["config"]) if "config" in given else None,
        values={
            (option.section, option.field_name): _converted(option, given[key])
            for key, option in options().items()
            if key in given
        },
        wants="",
    )


def layered(*layers: Mapping[tuple[str, str], Any]) -> Values:
    """Settings where later layers win. Options that take K=V are merged by key; steps and epochs set the same thing,
    so that either of them in a later layer replaces both of an earlier layer.

    Raises:
        ConfigError: one layer names both steps and epochs.
    """
    result: Values = {}
    for layer in layers:
        if STEPS in layer and EPOCHS in layer:
            raise ConfigError("steps_and_epochs")
        if STEPS in layer or EPOCHS in layer:
            result.pop(STEPS, None)
            result.pop(EPOCHS, None)
        both = {at: result[at] for at in result.keys() & layer.keys()}
        result |= layer
        for at, under in both.items():
            if isinstance(under, dict) and isinstance(layer[at], dict):
                result[at] = {**under, **layer[at]}
    return result


def split_request(values: Values) -> tuple[Values, Request]:
    """The settings of the run, and the request of this start.

    Raises:
        ConfigError: a value of the request that it cannot take.
    """
    request = {field: value for (section, field), value in values.items() if section == "request"}
    settings = {at: value for at, value in values.items() if at[0] != "request"}
    return settings, validated(Request, request)


def _build_parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for own in COMMAND_OPTIONS:
        flags = ["-h", "--help"] if own.name == "help" else [f"--{own.name}"]
        if own.value:
            parser.add_argument(*flags, dest=own.name, nargs="?", const=ABSENT)
        else:
            parser.add_argument(*flags, dest=own.name, action="store_const", const=True)
    for key, option in options().items():
        const = "true" if option.is_flag else option.facts.bare or ABSENT
        action = "append" if option.is_repeated else "store"
        parser.add_argument(f"--{option.name}", dest=key, nargs="?", const=const, action=action)
    return parser


def _joined(arguments: Sequence[str]) -> list[str]:
    """The words, where a value that begins with a dash, as in `--memory -3GiB`, is a word with its option: by itself it
    would be taken for an option. After an option that needs no value only a number is its value."""
    values = {f"--{option.name}": _NEGATIVE if _needs_none(option) else _ONE_DASH for option in options().values()}
    words: list[str] = []
    for word in arguments:
        if words and words[-1] in values and values[words[-1]].match(word):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def _needs_none(option: Option) -> bool:
    return option.is_flag or bool(option.facts.bare)


def _refuse_unknown(rest: Sequence[str]) -> None:
    if not rest:
        return
    word = next((word for word in rest if word.startswith("-")), rest[0])
    if not word.startswith("-"):
        raise ConfigError("argument_unexpected", argument=word)
    given = word.split("=")[0]
    known = [f"--{name}" for name in option_names()]
    why, fields = refusal(given, known)
    raise ConfigError(REFUSALS[why], option=given, **fields)


def _mode(given: Mapping[str, Any]) -> Mode:
    if "new" in given and "continue" in given:
        raise ConfigError("new_and_continue")
    mode: Mode = "new" if "new" in given else "continue" if "continue" in given else ""
    if "from" in given and mode != "continue":
        raise ConfigError("from_without_continue")
    return mode


def _converted(option: Option, text: str | list[str]) -> Any:
    """The typed text as a value of the model, which refuses what it does not take."""
    plain: Any = text
    if isinstance(text, list) and option.kinds == [dict]:
        pairs = [_pair(option, pair) for pair in text]
        plain = dict(pairs)
        for name in plain:
            if sum(name == given for given, _ in pairs) > 1:
                raise ConfigError("option_pair_twice", option=option.name, name=name)
    if option.section == "request":
        return getattr(validated(Request, {option.field_name: plain}), option.field_name)
    config = RunConfig().with_values({(option.section, option.field_name): plain})
    return getattr(getattr(config, option.section) if option.section else config, option.field_name)


def _pair(option: Option, text: str) -> tuple[str, Any]:
    """The name and the value of `betas=[0.9, 0.99]`; a value that is not TOML is taken as text."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise ConfigError("option_pair", option=option.name, given=text, example=PAIRS[option.name])
    if get_args(option.field.annotation)[1] is str:
        return name.strip(), value
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value
