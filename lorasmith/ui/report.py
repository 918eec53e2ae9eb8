"""`lorasmith report`: makes all files that are derived from the ledger of a run again. Changes no run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from lorasmith.errors import ExitCode, NoStateError, ResourceError
from lorasmith.reports.making import make_reports
from lorasmith.reports.projections import projections_of
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.locks import is_held
from lorasmith.ui.render import report_lines, shortened
from lorasmith.ui.switches import parse_switches, switches_help
from lorasmith.ui.translator import Translator
from lorasmith.ui.which_run import run_named

SWITCHES = {"output": "FOLDER", "lang": "en|zh-TW", "help": ""}


def report(arguments: list[str], words: Translator, command: str) -> int:
    """Makes JSON, PNG, page, CSV and TensorBoard files again; returns the exit status.

    Raises:
        ConfigError: bad arguments.
        NoStateError: the folder has no run.
        ResourceError: nothing could be written.
    """
    given = parse_switches(arguments, SWITCHES)
    if "help" in given:
        print(switches_help(words, command, "report", SWITCHES))
        return int(ExitCode.FINISHED)
    run = run_named(given.get("output"), Path.cwd())
    if not run.ledger.is_file():
        raise NoStateError("no_run_to_report", folder=str(run.root))
    if is_held(run.lock):
        print(words.say("report_command.going_on"))
    else:
        _remake(run, words)
    files = make_reports(run, words.in_files)
    print(*report_lines(words, files), sep="\n")
    if not files.made:
        raise ResourceError("report_not_made", folder=str(run.training_logs))
    return int(ExitCode.FINISHED)


def _remake(run: RunFolder, words: Translator) -> None:
    """Makes the files that a running training keeps up to date."""
    projections = projections_of(run, words.in_files.language)
    if projections.missing_library is not None:
        print(*words.warning("curves_left_out", projections.missing_library.fields), sep="\n")
    for failure in projections.rewrite():
        print(*words.warning("report_failed", asdict(failure)), sep="\n")
    for sink in projections.sinks:
        print(words.say("report_command.remade", path=shortened(sink.path)))
    projections.close()
