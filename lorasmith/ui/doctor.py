"""`lorasmith doctor`: describes the machine for a bug report. Changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from lorasmith import __version__
from lorasmith.errors import ExitCode, InputError
from lorasmith.runtime.examination import examine, processor_facts
from lorasmith.ui.encodings import can_show, encoding_of, shows_everything
from lorasmith.ui.layout import two_columns
from lorasmith.ui.switches import parse_switches, switches_help
from lorasmith.ui.translator import Translator

SWITCHES = {"json": "", "lang": "en|zh-TW", "help": ""}
LEFT = 22
CHINESE = "zh-TW"
PRECISIONS = {"sd15": "precision_sd15", "small": "precision_small"}
CHECKS = {"passed": "check_passed", "not_made": "check_not_made"}  # anything else names what differs
GIB = 2**30


def doctor(arguments: list[str], words: Translator, command: str) -> int:
    """Shows the machine; the exit status, FAILED where training could not begin.

    Raises:
        ConfigError: bad arguments.
    """
    given = parse_switches(arguments, SWITCHES)
    if "help" in given:
        print(switches_help(words, command, "doctor", SWITCHES))
        return int(ExitCode.FINISHED)
    facts = machine_facts()
    if "json" in given:
        print(json.dumps(facts, ensure_ascii=not shows_everything(sys.stdout), indent=1))
    else:
        print(*doctor_lines(words, facts), sep="\n")
    return int(ExitCode.CRASHED if "failure" in facts else ExitCode.FINISHED)


def machine_facts() -> dict[str, Any]:
    """All facts that are shown, as plain values."""
    return {
        "lorasmith": __version__,
        "processor": processor_facts(),
        **examine(),
        "cores": os.cpu_count(),
        "disk_free": shutil.disk_usage(Path.cwd()).free,
        "chinese_font": _chinese_font(),
        "terminal_encoding": encoding_of(sys.stdout),
        "terminal_shows_chinese": can_show(encoding_of(sys.stdout), CHINESE),
    }


def doctor_lines(words: Translator, facts: dict[str, Any]) -> list[str]:
    """The screen: a row for each fact, then what can be repaired."""

    def row(key: str, value: str) -> tuple[str, str]:
        return words.say(f"doctor.{key}"), value

    rows = [row("version", f"lorasmith {facts['lorasmith']}")]
    processor = facts["processor"]
    rows.append(row("processor", f"{processor['name']} ({', '.join(processor['instructions']) or '-'})"))
    if "failure" not in facts:
        rows += _engine_rows(words, facts)
    rows.append(row("disk", words.say("doctor.free", free=_gib(facts["disk_free"]))))
    rows.append(row("font", facts["chinese_font"] or words.say("doctor.no_font")))
    shows = "shows" if facts["terminal_shows_chinese"] else "shows_not"
    rows.append(row("terminal", words.say(f"doctor.{shows}", encoding=facts["terminal_encoding"])))
    width = min(shutil.get_terminal_size().columns, 120)
    lines = two_columns(rows, left=LEFT, width=width)
    if "failure" in facts:
        lines += ["", *words.error("doctor_engine_failed", {"reason": facts["failure"]})]
    elif facts["self_check"] not in CHECKS:
        lines += ["", *words.warning("bits_not_repeatable", {"products": facts["self_check"]})]
    return lines


def _engine_rows(words: Translator, facts: dict[str, Any]) -> list[tuple[str, str]]:
    reason = words.say(f"device.{facts['device_reason']}")
    device = words.say("doctor.device_is", device=facts["device"], name=facts["device_name"], reason=reason)
    if facts["driver"] or facts["cuda"]:
        device += words.say("doctor.driver", driver=facts["driver"] or "-", cuda=facts["cuda"] or "-")
    memory = words.say("doctor.free_of", free=_gib(facts["memory_free"]), total=_gib(facts["memory_total"]))
    if facts["device_memory"]:
        sizes = {name: _gib(size) for name, size in facts["device_memory"].items()}
        memory += words.say("doctor.on_device", **sizes)
    precisions = {
        PRECISIONS[size]: words.say(
            "doctor.precision_is", precision=found["precision"], why=words.say(f"precision.{found['reason']}")
        )
        for size, found in facts["precision"].items()
    }
    check = CHECKS.get(facts["self_check"], "check_failed")
    values = {
        "device": device,
        "threads": words.say("doctor.threads_of", threads=facts["threads"], cores=facts["cores"]),
        **precisions,
        "check": words.say(
            f"doctor.{check}",
            products=facts["self_check"],
            precisions=", ".join(facts["self_check_precisions"]),
            seconds=f"{facts['self_check_seconds']:.2f}",
        ),
        "mkl": facts["mkl_mode"] or "-",
        "packages": ", ".join(f"{name} {found}" for name, found in facts["packages"].items()),
        "system": facts["system"],
        "memory": memory,
    }
    return [(words.say(f"doctor.{key}"), value) for key, value in values.items()]


def _chinese_font() -> str:
    """The font of charts in Chinese; "" where there is none, or matplotlib cannot be imported."""
    from lorasmith.reports.drawing import font_for

    try:
        return font_for(CHINESE) or ""
    except InputError:
        return ""


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
