"""`lorasmith convert`, `merge`, `resize` and `extract`: make new files of LoRAs and models, over no other."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lorasmith.errors import ConfigError, ExitCode
from lorasmith.ui.render import shortened
from lorasmith.ui.switches import parse_switches, switches_help
from lorasmith.ui.translator import Translator

if TYPE_CHECKING:
    from lorasmith.lora_tools.combine import Combined
    from lorasmith.lora_tools.convert import Style
    from lorasmith.lora_tools.low_rank import Cut

PRECISION = "fp32|bf16|fp16"
CUT = {"rank": "N", "energy": "X", "ratio": "X"}
COMMON = {"precision": PRECISION, "lang": "en|zh-TW", "help": ""}
CONVERT = {"to": "kohya|peft|diffusers|comfyui", **COMMON}
MERGE = {"into": "MODEL", "weights": "W,W", **CUT, **COMMON}
EXTRACT = {"base": "MODEL", "tuned": "MODEL", **CUT, **COMMON}
RESIZE = {**CUT, **COMMON}


def convert(arguments: list[str], words: Translator, command: str) -> int:
    """Writes a LoRA under the names of another program; returns the exit status.

    Raises:
        ConfigError: bad arguments.
        InputError: the file cannot be converted, or the output exists.
    """
    files: list[str] = []
    given = parse_switches(arguments, CONVERT, files=files)
    if "help" in given:
        return _help(words, command, "convert", CONVERT)
    source, out = _files(files, command, exactly=2)
    style = cast("Style", _choice(given, "to", CONVERT["to"]))
    precision = _choice(given, "precision", PRECISION, default="")
    from lorasmith.lora_tools.convert import convert as write_converted  # imports numpy

    made = write_converted(source, out, to=style, precision=precision)
    _written(words, made.path, made.layers)
    if made.rounded:
        print(words.say("message.note", text=words.say("tools.rounded", count=made.rounded)))
    return int(ExitCode.FINISHED)


def merge(arguments: list[str], words: Translator, command: str) -> int:
    """Adds LoRAs up, exactly or to a rank, or adds them to a base model; returns the exit status.

    Raises:
        ConfigError: bad arguments.
        InputError: a file cannot be merged, or the output exists.
    """
    files: list[str] = []
    given = parse_switches(arguments, MERGE, files=files)
    if "help" in given:
        return _help(words, command, "merge", MERGE)
    *names, out = _files(files, command, at_least=2 if "into" in given else 3)
    if "into" not in given:
        return _combined(given, names, out, words, _cut(given))
    for option in (*CUT, "precision"):
        if option in given:
            raise ConfigError("option_not_with", option=option, other="into")
    from lorasmith.lora_tools.combine import Source, weights_of  # imports numpy
    from lorasmith.lora_tools.into_model import merge_into

    weights = weights_of(given.get("weights", ""), len(names))
    with _progress(words) as progress:
        made = merge_into(Path(given["into"]), list(map(Source, names, weights)), out, progress, allows_left_out=True)
    _written(words, made.path, made.layers)
    if made.left_out:
        print(words.say("message.note", text=words.say("tools.left_out", count=made.left_out, path=given["into"])))
    return int(ExitCode.FINISHED)


def resize(arguments: list[str], words: Translator, command: str) -> int:
    """Writes a LoRA with other ranks; returns the exit status.

    Raises:
        ConfigError: bad arguments.
        InputError: the file cannot be resized, or the output exists.
    """
    files: list[str] = []
    given = parse_switches(arguments, RESIZE, files=files)
    if "help" in given:
        return _help(words, command, "resize", RESIZE)
    source, out = _files(files, command, exactly=2)
    cut = _cut(given)
    if cut is None:
        raise ConfigError("limit_missing")
    return _combined(given, [source], out, words, cut)


def extract(arguments: list[str], words: Translator, command: str) -> int:
    """Makes a LoRA of the difference between two models; returns the exit status.

    Raises:
        ConfigError: bad arguments.
        InputError: the models cannot be compared, or the output exists.
    """
    files: list[str] = []
    given = parse_switches(arguments, EXTRACT, files=files)
    if "help" in given:
        return _help(words, command, "extract", EXTRACT)
    (out,) = _files(files, command, exactly=1)
    cut = _cut(given)
    for option in ("base", "tuned"):
        if option not in given:
            raise ConfigError("option_missing", option=option, expected=EXTRACT[option])
    if cut is None:
        raise ConfigError("limit_missing")
    from lorasmith.lora_tools.extract import extract as write_extracted  # imports numpy

    with _progress(words) as progress:
        made = write_extracted(
            Path(given["base"]),
            Path(given["tuned"]),
            out,
            cut=cut,
            precision=_choice(given, "precision", PRECISION, default="fp16"),
            progress=progress,
        )
    return _show(words, made)


def _combined(given: dict[str, str], names: list[Path], out: Path, words: Translator, cut: Cut | None) -> int:
    from lorasmith.lora_tools.combine import Source, combine, weights_of  # imports numpy

    precision = _choice(given, "precision", PRECISION, default="")
    weights = weights_of(given.get("weights", ""), len(names))
    with _progress(words) as progress:
        made = combine(list(map(Source, names, weights)), out, cut=cut, precision=precision, progress=progress)
    return _show(words, made)


@contextmanager
def _progress(words: Translator) -> Iterator[Callable[[int, int], None]]:
    """Shows the layers that are done."""
    from lorasmith.ui.screens import open_screen

    screen = open_screen(sys.stderr)

    def progress(done: int, total: int) -> None:
        text = words.say("tools.layers_done", done=done, total=total)
        screen.status(lambda _width, _only_ascii: text, done / max(1, total))

    try:
        yield progress
    finally:
        screen.close()


def _written(words: Translator, path: Path, layers: int) -> None:
    print(words.say("tools.written", path=shortened(path), layers=layers))
    if path.suffix != ".safetensors" and not path.is_dir():
        print(words.say("message.note", text=words.say("tools.no_suffix", path=shortened(path))))


def _show(words: Translator, made: Combined) -> int:
    _written(words, made.path, made.layers)
    smallest, largest = made.ranks
    print(words.say("tools.ranks", smallest=smallest, largest=largest, energy=f"{100 * made.energy:.4g}"))
    return int(ExitCode.FINISHED)


def _help(words: Translator, command: str, name: str, switches: dict[str, str]) -> int:
    print(switches_help(words, command, name, switches, files=words.say(f"tools.files_of.{name}")))
    return int(ExitCode.FINISHED)


def _files(files: list[str], command: str, *, exactly: int = 0, at_least: int = 0) -> list[Path]:
    if len(files) != exactly if exactly else len(files) < at_least:
        raise ConfigError("files_count", given=len(files), command=command)
    return [Path(name) for name in files]


def _cut(given: dict[str, str]) -> Cut | None:
    """The limits of the ranks that are asked for; None where none is."""
    rank = _number(given, "rank", lambda value: value >= 1 and value.is_integer(), "N >= 1")
    energy = _number(given, "energy", lambda value: 0 < value <= 1, "0 < X <= 1")
    ratio = _number(given, "ratio", lambda value: value >= 1, "X >= 1")
    if rank is energy is ratio is None:
        return None
    from lorasmith.lora_tools.low_rank import Cut

    return Cut(None if rank is None else int(rank), energy, ratio)


def _number(given: dict[str, str], option: str, is_valid: Callable[[float], bool], expected: str) -> float | None:
    if option not in given:
        return None
    try:
        value = float(given[option])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and is_valid(value)):
        raise ConfigError("option_choice", option=option, value=given[option], expected=expected)
    return value


def _choice(given: dict[str, str], option: str, choices: str, *, default: str | None = None) -> str:
    """The value of an option that takes one of `choices`; without a default it must be given."""
    if option not in given:
        if default is None:
            raise ConfigError("option_missing", option=option, expected=choices)
        return default
    if given[option] not in choices.split("|"):
        raise ConfigError("option_choice", option=option, value=given[option], expected=choices)
    return given[option]
