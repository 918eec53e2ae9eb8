"""`lorasmith inspect`: shows what LoRA files of any trainer are. Changes nothing."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lorasmith.errors import ConfigError, ExitCode, ModelError
from lorasmith.ui.encodings import shows_everything
from lorasmith.ui.layout import cells, two_columns
from lorasmith.ui.switches import parse_switches, switches_help
from lorasmith.ui.translator import Translator

if TYPE_CHECKING:
    from lorasmith.lora_tools.inspection import Block, Inspection
    from lorasmith.ui.screens import Screen

SWITCHES = {"json": "", "lang": "en|zh-TW", "help": ""}
LEFT = 20  # cells of the column of names
MAX_WIDTH = 120
BAR = 30  # cells of the longest bar
MAX_SHOWN = 6  # different ranks or alphas
MIB = 2**20
TRAINING = ("steps", "epochs", "lr", "text_encoder_lr", "optimizer", "lr_schedule", "batch_size", "resolution", "seed")
ORIGIN = ("title", "author", "trigger", "base_model", "base_version", "date")


def inspect(arguments: list[str], words: Translator, command: str) -> int:
    """Shows every file that is named; the exit status, BAD_INPUT where one cannot be read.

    Raises:
        ConfigError: bad arguments.
    """
    files: list[str] = []
    given = parse_switches(arguments, SWITCHES, files=files)
    if "help" in given:
        print(switches_help(words, command, "inspect", SWITCHES, files=words.say("tools.files")))
        return int(ExitCode.FINISHED)
    if not files:
        raise ConfigError("files_missing", command=command)
    # imported late: bad arguments are refused without loading numpy and rich
    from lorasmith.lora_tools.inspection import inspect_lora
    from lorasmith.ui.screens import open_screen

    screen, found, status = open_screen(sys.stdout), [], ExitCode.FINISHED
    for number, name in enumerate(files):
        try:
            inspection = inspect_lora(Path(name))
        except ModelError as error:
            print(*words.error(error.code, error.fields), sep="\n", file=sys.stderr)
            status = ExitCode.BAD_INPUT
            continue
        if "json" in given:
            found.append(inspection.as_plain())
            continue
        if number:
            screen.line("")
        show(words, inspection, screen)
    if "json" in given:
        print(json.dumps(found, ensure_ascii=not shows_everything(sys.stdout), indent=1))
    return int(status)


def show(words: Translator, inspection: Inspection, screen: Screen) -> None:
    """The screen of a file: what it is, how large its changes are by block, what is odd."""
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    for line in two_columns(list(_rows(words, inspection)), left=LEFT, width=width):
        screen.line(line)
    screen.line("")
    screen.line(words.say("inspect.blocks"))
    for line in _bars(words, inspection.blocks):
        screen.line(line)
    screen.line("")
    if not inspection.oddities:
        screen.line(words.say("inspect.nothing_odd"), "good")
    for odd in inspection.oddities:
        fields = dict(odd.fields)
        if "component" in fields:
            fields["component"] = words.say(f"component.{fields['component']}")
        screen.line(words.say("message.note", text=words.say(f"odd.{odd.code}.text", **fields)), "warning")
        if words.knows(f"odd.{odd.code}.hint"):
            screen.line("  " + words.say("message.hint", text=words.say(f"odd.{odd.code}.hint", **odd.fields)))


def _rows(words: Translator, inspection: Inspection) -> Iterator[tuple[str, str]]:
    from lorasmith.lora_files.names import FAMILY_NAMES

    file, facts = inspection.file, inspection.facts
    size = file.path.stat().st_size / MIB
    yield words.say("inspect.row.file"), words.say("inspect.size", path=str(file.path), size=f"{size:.1f}")
    families = [FAMILY_NAMES.get(family, family) for family in file.families]
    yield words.say("inspect.row.family"), words.say("inspect.or").join(families) or words.say("inspect.unknown")
    kinds = [words.say("inspect.counted", what=kind, count=count) for kind, count in file.kinds.most_common()]
    yield words.say("inspect.row.kind"), words.say("inspect.comma").join(kinds)
    if file.differences:
        whole = [_difference(words, kind, count) for kind, count in sorted(file.differences.items())]
        text = words.say("inspect.differences", counts=words.say("inspect.comma").join(whole))
        yield words.say("inspect.row.differences"), text
    namings = [words.say(f"inspect.naming.{name}") for name in file.namings]
    yield words.say("inspect.row.names"), words.say("inspect.comma").join(namings)
    parts = [_part(words, component, count) for component, count in file.components.items()]
    yield words.say("inspect.row.parts"), words.say("inspect.comma").join(parts)
    yield words.say("inspect.row.rank"), _counted(words, {str(rank): n for rank, n in sorted(file.ranks.items())})
    alphas = {words.say("inspect.no_alpha") if a is None else f"{a:g}": n for a, n in file.alphas.most_common()}
    yield words.say("inspect.row.alpha"), _counted(words, alphas)
    yield words.say("inspect.row.numbers"), ", ".join(file.dtypes)
    for number, reading in enumerate(inspection.readings):
        text = words.say(f"inspect.reading.{reading.outcome}", **reading._asdict())
        strength = words.say("inspect.other_strength") if reading.has_other_strength else ""
        yield "" if number else words.say("inspect.row.readers"), text + strength
    for row, names in (("origin", ORIGIN), ("training", TRAINING)):
        stated = [words.say(f"inspect.fact.{name}", value=facts[name]) for name in names if name in facts]
        yield (
            words.say(f"inspect.row.{row}"),
            words.say("inspect.semicolon").join(stated) or words.say("inspect.not_stated"),
        )
    if "tags" in facts:
        tags = [f"{tag} ({count})" for tag, count in facts["tags"].items()]
        yield words.say("inspect.row.tags"), ", ".join(tags)
    yield "SHA-256", inspection.hashes["sha256"]
    yield words.say("inspect.row.tensor_hash"), inspection.hashes["sshs_model_hash"]


def _difference(words: Translator, kind: str, count: int) -> str:
    return words.say("inspect.counted", what=words.say(f"inspect.difference.{kind}"), count=count)


def _part(words: Translator, component: str, count: int) -> str:
    return words.say("inspect.counted", what=words.say(f"component.{component}"), count=count)


def _counted(words: Translator, counts: dict[str, int]) -> str:
    """The only value, or values with their counts."""
    if len(counts) == 1:
        return next(iter(counts))
    shown = [words.say("inspect.counted", what=what, count=count) for what, count in list(counts.items())[:MAX_SHOWN]]
    return words.say("inspect.comma").join([*shown, "…"] if len(counts) > MAX_SHOWN else shown) or "-"


def _bars(words: Translator, blocks: tuple[Block, ...]) -> Iterator[str]:
    """A line for each block: its name, a bar, the norm, the number of layers."""
    sign = "\u2588" if shows_everything(sys.stdout) else "#"
    largest = max((block.norm or 0 for block in blocks), default=0) or 1
    counted = Counter(block.component for block in blocks)
    names = [
        block.name or words.say("inspect.no_block" if counted[block.component] > 1 else "inspect.all_layers")
        for block in blocks
    ]
    left = max(map(cells, names), default=0) + 2
    component = ""
    for block, name in zip(blocks, names, strict=True):
        if block.component != component:
            component = block.component
            yield f"  {words.say(f'component.{component}')}"
        is_number = block.norm is not None and block.norm == block.norm and block.norm <= largest
        bar = sign * round(BAR * (block.norm or 0) / largest) if is_number else ""
        value = "-" if block.norm is None else f"{block.norm:.4g}"
        layers = words.say("inspect.layers", count=block.modules)
        yield f"    {name}{' ' * (left - cells(name))}{bar:<{BAR}} {value:>9}  {layers}"
