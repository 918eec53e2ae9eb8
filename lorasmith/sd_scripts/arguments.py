"""The arguments of sd-scripts' parsers: names, types, defaults and choices, as `arguments.tsv` lists them.

The table was made from the parsers of sd-scripts 0.10.1 (commit 48d368fa) and of musubi-tuner (of 2026-06-24).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from lorasmith.errors import ConfigError
from lorasmith.option_names import closest

Kind = Literal["flag", "text", "integer", "number", "steps_or_share", "texts", "numbers"]
Script = Literal[
    "train_network",
    "sdxl_train_network",
    "flux_train_network",
    "anima_train_network",
    "zimage_train_network",
    "krea2_train_network",
    "flux_2_train_network",
]
SCRIPTS: tuple[Script, ...] = get_args(Script)
OF_MUSUBI: tuple[Script, ...] = ("zimage_train_network", "krea2_train_network", "flux_2_train_network")
"""Scripts of musubi-tuner, by the author of sd-scripts: their parser is a shorter one."""
OF_FLOW: tuple[Script, ...] = ("flux_train_network", "anima_train_network", *OF_MUSUBI)
"""Scripts for models of flow matching."""

MAX_SHOWN = 100  # letters of a value in a message
UNCHECKED_CHOICES = frozenset({"75"})
"""The usual length of prompts, which sd-scripts takes from a file though its parser does not list it."""


ONLY_DOCUMENTED = ("text_encoder_lr1", "text_encoder_lr2")
"""Arguments in the commands of sd-scripts' documentation of SDXL that its parser does not know."""


OTHER_DEFAULTS: dict[tuple[str, str], str] = {
    ("anima_train_network", "timestep_sampling"): "sigmoid",
    ("anima_train_network", "discrete_flow_shift"): "1.0",
    **{(script, "discrete_flow_shift"): "1.0" for script in OF_MUSUBI},
    **{(script, "guidance_scale"): "1.0" for script in OF_MUSUBI},
    **{(script, "weighting_scheme"): "none" for script in OF_MUSUBI},
}
"""Defaults of a script that are not those of the table."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of `train_network.py` and so of all scripts of sd-scripts, or of some scripts alone."""

    name: str
    scripts: tuple[str, ...]
    kind: Kind
    default: str  # as typed; "" where there is none
    choices: tuple[str, ...]

    def is_of(self, script: Script) -> bool:
        """Whether the script takes it."""
        return script in self.scripts or ("train_network" in self.scripts and script not in OF_MUSUBI)

    def default_of(self, script: Script) -> str:
        """The default in this script, as typed."""
        return OTHER_DEFAULTS.get((script, self.name), self.default)

    @property
    def is_list(self) -> bool:
        """Whether it takes any number of values."""
        return self.kind in ("texts", "numbers")


@cache
def arguments() -> Mapping[str, Argument]:
    """The arguments of all scripts that are taken here, by name, in the order of their parsers."""
    found = {}
    for name, scripts, kind, default, choices in _rows():
        if kind:
            listed = tuple(choices.split("|")) if choices else ()
            found[name] = Argument(name, tuple(scripts.split()), kind, default, listed)  # type: ignore[arg-type]
    found |= {name: Argument(name, ("sdxl_train_network",), "number", "", ()) for name in ONLY_DOCUMENTED}
    return MappingProxyType(found)


@cache
def of_other_scripts() -> Mapping[str, tuple[str, ...]]:
    """The arguments of sd-scripts' other training scripts, with the names of these scripts."""
    found = {name: tuple(scripts.split()) for name, scripts, kind, _, _ in _rows() if not kind}
    return MappingProxyType(found)


def known_to(script: Script) -> dict[str, Argument]:
    """The arguments that a script takes."""
    return {name: argument for name, argument in arguments().items() if argument.is_of(script)}


def unknown(given: str, shown: str, script: Script) -> ConfigError:
    """The error about a name that the script does not take.

    Args:
        given: the name without dashes.
        shown: the name as it was given.
    """
    others = of_other_scripts().get(given, ())
    if given in arguments():
        others = arguments()[given].scripts
    if others:
        taken = [name for name in others if name in SCRIPTS]
        code = "sd_other_script_taken" if taken else "sd_other_script"
        return ConfigError(code, argument=shown, script=f"{(taken or others)[0]}.py")
    dashes = shown[: len(shown) - len(shown.lstrip("-"))]
    nearest = closest(given, known_to(script))
    if nearest:
        return ConfigError("sd_mistyped", argument=shown, nearest=f"{dashes}{nearest}")
    return ConfigError("sd_unknown", argument=shown)


def converted(argument: Argument, value: Any, shown: str) -> Any:
    """The value of an argument from the text that was typed, or from a value of a file; None for an empty text, which
    counts as not given.

    Raises:
        ConfigError: the argument does not take such a value.
    """
    if argument.is_list:
        return _listed(argument, value, shown)
    if argument.kind == "flag":
        if not isinstance(value, bool) and value not in (0, 1):  # files of kohya_ss have 1 for some flags
            raise ConfigError("sd_not_flag", argument=shown, value=_short(value))
        return bool(value)
    if value is False and argument.kind == "text":  # resume = false
        return None
    if isinstance(value, list | tuple) and argument.kind == "text":  # resolution = [512, 768]
        value = ",".join(map(str, value))
    if isinstance(value, bool | list | dict):
        raise _wrong(argument, value, shown)
    text = str(value).strip() if argument.kind != "text" else str(value)
    if not text:
        return None
    if argument.choices:
        return _chosen(argument, text, shown)
    return text if argument.kind == "text" else _number(argument, text, shown)


def _listed(argument: Argument, value: Any, shown: str) -> list[Any]:
    items = value.split() if isinstance(value, str) else value if isinstance(value, list) else [value]
    if argument.kind == "texts":
        if not all(isinstance(item, str) for item in items):
            raise _wrong(argument, value, shown)
        return [item for item in items if item]
    if any(isinstance(item, bool | list | dict) for item in items):
        raise _wrong(argument, value, shown)
    return [_number(argument, str(item), shown) for item in items]


def _chosen(argument: Argument, text: str, shown: str) -> Any:
    if text in UNCHECKED_CHOICES and argument.kind == "integer":
        return int(text)
    for choice in argument.choices:
        if text.lower() == choice.lower():
            return int(choice) if argument.kind == "integer" else choice
    raise ConfigError("sd_not_choice", argument=shown, value=_short(text), choices=list(argument.choices))


def _number(argument: Argument, text: str, shown: str) -> int | float:
    """A number; a share in per cent, and a whole number of steps that is written as 3.0, are understood too."""
    try:
        if argument.kind == "steps_or_share" and text.endswith("%"):
            value: int | float = float(text[:-1]) / 100
        elif argument.kind in ("integer", "steps_or_share") and text.lstrip("+-").isdecimal():
            value = int(text)
        else:
            value = float(text)
    except ValueError:
        raise _wrong(argument, text, shown) from None
    if not math.isfinite(value):
        raise _wrong(argument, text, shown)
    if argument.kind == "integer" or (argument.kind == "steps_or_share" and abs(value) >= 1):
        if value != int(value):
            raise _wrong(argument, text, shown)
        return int(value)
    return value


def _wrong(argument: Argument, value: Any, shown: str) -> ConfigError:
    codes = {
        "integer": "sd_not_integer",
        "number": "sd_not_number",
        "numbers": "sd_not_number",
        "steps_or_share": "sd_not_steps",
        "text": "sd_not_text",
        "texts": "sd_not_text",
    }
    return ConfigError(codes[argument.kind], argument=shown, value=_short(value))


def _short(value: Any) -> str:
    return str(value)[:MAX_SHOWN]


def _rows() -> list[list[str]]:
    text = Path(__file__).with_name("arguments.tsv").read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines()[1:]]
