"""`lorasmith plan`: shows what a start would do and cost. Changes nothing on disk and asks nothing."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorasmith import __version__
from lorasmith.config import load_flat_toml
from lorasmith.errors import ConfigError, ExitCode
from lorasmith.runs.layout import run_at
from lorasmith.ui.encodings import shows_everything
from lorasmith.ui.folder_settings import read_folder_settings, with_notice
from lorasmith.ui.layout import two_columns, wrapped
from lorasmith.ui.options import EPOCHS, STEPS, CommandLine, Values, layered, parse, split_request
from lorasmith.ui.train import BASE_MODEL, words_of
from lorasmith.ui.translator import Translator

if TYPE_CHECKING:
    from lorasmith.planning.plan import RunPlan
    from lorasmith.runtime.preflight import Start

OWN_OPTIONS = ("speed", "no-probe", "json", "help")
LEFT = 14


@dataclass(frozen=True, slots=True)
class _Arguments:
    """The command line: options of `train`, and the switches of `plan`."""

    line: CommandLine
    speed: bool
    no_probe: bool
    json: bool


def plan(arguments: list[str], words: Translator, command: str) -> int:
    """Runs the command and returns its exit status.

    Raises:
        TrainerError: the run would be refused for it.
    """
    given = _parsed(arguments)
    if given.line.wants:
        print(f"lorasmith {__version__}" if given.line.wants == "version" else "\n".join(_help(words, command)))
        return int(ExitCode.FINISHED)
    config = load_flat_toml(given.line.config) if given.line.config is not None else {}
    words = words_of(config, given.line, words)
    here = Path.cwd()
    if given.speed:
        return _try_batch_sizes(given, config, words, here)
    found = _plan(given, config, words, here)
    # imported late: bad arguments are refused without loading rich
    from lorasmith.planning.plan import as_plain

    if given.json:
        print(json.dumps(as_plain(found), ensure_ascii=not shows_everything(sys.stdout), indent=1))
    else:
        from lorasmith.ui.plan_view import show

        show(words, found, here)
    return int(ExitCode.FINISHED)


def _try_batch_sizes(given: _Arguments, config: Values, words: Translator, here: Path) -> int:
    start, _ = _start(given, config, words, here)

    from lorasmith.planning import plan
    from lorasmith.planning.speed import as_plain, try_batch_sizes

    print(words.say("plan.speed.probing"), file=sys.stderr, flush=True)
    trials = []
    for trial in try_batch_sizes(start, plan.scan_of(start)):  # each takes seconds to minutes
        trials.append(trial)
        print(words.say("plan.speed.tried", batch=trial.batch_size), file=sys.stderr, flush=True)
    if given.json:
        plain = {"trials": [as_plain(trial) for trial in trials]}
        print(json.dumps(plain, ensure_ascii=not shows_everything(sys.stdout), indent=1))
    else:
        from lorasmith.ui.speed_view import show

        show(words, trials)
    return int(ExitCode.FINISHED)


def _start(given: _Arguments, config: Values, words: Translator, here: Path) -> tuple[Start, bool]:
    """The start that is planned, and whether its number of steps is still to be suggested."""
    values = given.line.values
    is_new = given.line.mode != "continue"
    values = layered(read_folder_settings(here), config, values) if is_new else layered(config, values)
    split_request(values)  # checks the values before any file is read
    if is_new and not values.get(BASE_MODEL):
        raise ConfigError("base_model_unnamed")
    steps_assumed = is_new and STEPS not in values and EPOCHS not in values
    if steps_assumed:
        values[STEPS] = 1
    if not is_new:
        return _continued(values, given.line, here), steps_assumed

    from lorasmith.session.lanes import MemoryTooSmallError

    try:
        return _new(values, words, here), steps_assumed
    except MemoryTooSmallError as error:
        if not given.json:
            from lorasmith.ui.plan_view import show_lanes

            show_lanes(words, error.lanes)
        raise


def _plan(given: _Arguments, config: Values, words: Translator, here: Path) -> RunPlan:
    began = time.perf_counter()
    start, steps_assumed = _start(given, config, words, here)
    checking_seconds = time.perf_counter() - began

    from lorasmith.planning import plan
    from lorasmith.planning.estimate import ProbeResult, Unmeasured
    from lorasmith.planning.probe import noise_levels, probe

    found = plan.scan_of(start)
    if steps_assumed:
        start = plan.with_suggested_steps(start, found)
    measured: ProbeResult | Unmeasured = Unmeasured(plan.NOT_PROBED, {})
    if not given.no_probe:
        print(words.say("plan.probing"), file=sys.stderr, flush=True)
        measured = probe(start, found)
    levels = () if isinstance(measured, ProbeResult) else noise_levels(start)
    return plan.plan_of(
        start,
        found,
        measured,
        steps_assumed=steps_assumed,
        checking_seconds=checking_seconds,
        noise_levels=levels,
    )


def _new(values: Values, words: Translator, here: Path) -> Start:
    from lorasmith.runtime.preflight import new_run

    settings, request = split_request(values)
    return new_run(settings, request, state_prefix=words.state_prefix, here=here)


def _continued(values: Values, line: CommandLine, here: Path) -> Start:
    from lorasmith.runtime.preflight import continued_run

    settings, request = split_request(values)
    start = continued_run(run_at(here, request.output), settings, request, from_state=line.from_state, here=here)
    return with_notice(start, values, here)


def _parsed(arguments: list[str]) -> _Arguments:
    own = {f"--{name}" for name in OWN_OPTIONS if name != "help"}
    line = parse([argument for argument in arguments if argument not in own])
    return _Arguments(
        line, speed="--speed" in arguments, no_probe="--no-probe" in arguments, json="--json" in arguments
    )


def _help(words: Translator, command: str) -> list[str]:
    width = min(shutil.get_terminal_size().columns, 120)
    rest = words.say("help.rest")
    rows = [(f"--{name}", words.say(f"plan.help.{name}")) for name in OWN_OPTIONS]
    return [
        words.say("help.usage", command=command, rest=rest),
        "",
        *wrapped(words.say("plan.help.about"), width),
        "",
        *two_columns(rows, left=LEFT, width=width),
        "",
        *wrapped(words.say("plan.help.options"), width),
    ]
