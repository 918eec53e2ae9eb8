"""`accelerate launch` before `train_network.py`: as typed after `lorasmith train-network`, and as its environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath, PureWindowsPath

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.arguments import SCRIPTS as NAMES
from lorasmith.sd_scripts.arguments import Script, of_other_scripts

SCRIPTS: dict[str, Script] = {f"{name}.py": name for name in NAMES}
UNKNOWN_SCRIPT = re.compile(r"\w+_train_network\.py")
COUNTS = ("num_processes", "nproc_per_node")
"""Options of `accelerate launch` and `torchrun` with the number of processes."""


def without_launcher(words: Sequence[str], script: Script) -> tuple[list[str], Script]:
    """The words after the name of a script, and that script: people paste whole commands. Without the name of a script
    all words are kept.

    Raises:
        ConfigError: `sd_script_not_known`, a training script that has no counterpart here;
            `sd_several_processes`, the launcher is asked for several.
    """
    others = {f"{name}.py" for scripts in of_other_scripts().values() for name in scripts} - set(SCRIPTS)
    for number, word in enumerate(words):
        if word.startswith("--") and number == 0:
            break
        name = PureWindowsPath(PurePath(word).name).name
        if name in SCRIPTS:
            _refuse_several(words[:number])
            return list(words[number + 1 :]), SCRIPTS[name]
        if name in others or UNKNOWN_SCRIPT.fullmatch(name):
            raise ConfigError("sd_script_not_known", script=name, known=list(SCRIPTS))
    return list(words), script


def script_among(words: Sequence[str]) -> Script | None:
    """The first script that is named; None where none is."""
    names = (PureWindowsPath(PurePath(word).name).name for word in words)
    return next((SCRIPTS[name] for name in names if name in SCRIPTS), None)


def _refuse_several(options: Sequence[str]) -> None:
    for number, word in enumerate(options):
        following = options[number + 1] if number + 1 < len(options) else ""
        name, sign, value = word.partition("=")
        count = value if sign else following
        if name.lstrip("-").replace("-", "_") in COUNTS and count.isdecimal() and int(count) > 1:
            raise ConfigError("sd_several_processes", processes=int(count))


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuses to be started several times at once, as launchers do for several GPUs.

    Raises:
        ConfigError: `sd_several_processes`.
    """
    processes = environment.get("WORLD_SIZE", "1")
    if processes.isdecimal() and int(processes) > 1:
        raise ConfigError("sd_several_processes", processes=int(processes))
