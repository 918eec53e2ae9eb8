"""`lorasmith import`: makes a `lorasmith.toml` of another trainer's configuration, and names what it leaves out."""

from __future__ import annotations

import os
from pathlib import Path

from lorasmith.errors import ConfigError, ExitCode
from lorasmith.ui.folder_settings import FOLDER_SETTINGS
from lorasmith.ui.switches import parse_switches, switches_help
from lorasmith.ui.translator import Translator

SWITCHES = {"to": "FILE", "lang": "en|zh-TW", "help": ""}


def import_config(arguments: list[str], words: Translator, command: str, *, here: Path | None = None) -> int:
    """Writes the settings of a configuration; returns the exit status.

    Raises:
        ConfigError: bad arguments, a file that cannot be read or is none of these programs', or an existing output.
    """
    files: list[str] = []
    given = parse_switches(arguments, SWITCHES, files=files)
    if "help" in given:
        print(switches_help(words, f"{command} CONFIG", "import", SWITCHES))
        return int(ExitCode.FINISHED)
    if len(files) != 1:
        raise ConfigError("import_files", command=command)
    here = here or Path.cwd()
    out = here / str(given.get("to") or FOLDER_SETTINGS)
    if os.path.lexists(out):
        raise ConfigError("import_exists", file=str(out))
    from lorasmith.other_trainers.reading import read_import
    from lorasmith.other_trainers.writing import shown, toml_text
    from lorasmith.runs.durable import map_write_errors, write_atomically

    found = read_import(here / files[0], here)
    lines = [
        words.say(
            "import.left", name=left.name, value=shown(left.value), reason=words.say(f"import.reason.{left.reason}")
        )
        for left in found.left_out
    ]
    made = words.say("import.made_from", trainer=found.trainer, file=Path(files[0]).name)
    text = toml_text(found, [made, *([words.say("import.not_carried")] if lines else []), *lines])
    with map_write_errors(out.parent):
        write_atomically(out, text.encode(), is_new=True)
    count = len(found.values) + len(found.subsets)
    print(words.say("import.written", file=out, trainer=found.trainer, count=count))
    for code, fields in found.notes:
        print(*words.warning(code, fields), sep="\n")
    if lines:
        print(words.say("import.not_carried"), *(f"  {line}" for line in lines), sep="\n")
    print(words.say("import.next"))
    return int(ExitCode.FINISHED)
