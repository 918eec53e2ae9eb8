"""`lorasmith train-network`: sd-scripts' command line, trained as `train` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith import __version__
from lorasmith.config import Request
from lorasmith.errors import ConfigError, ExitCode
from lorasmith.runs.layout import run_at
from lorasmith.runs.naming import NamedState, named_state
from lorasmith.runs.states import find_states
from lorasmith.runtime.given import GIVEN
from lorasmith.sd_scripts.arguments import Script
from lorasmith.sd_scripts.command_line import Given, config_file, parsed
from lorasmith.sd_scripts.config_output import write_config
from lorasmith.sd_scripts.launcher import SCRIPTS, check_environment, without_launcher
from lorasmith.sd_scripts.translate import Translation, translated
from lorasmith.ui.option_help import expected
from lorasmith.ui.options import Values, split_request
from lorasmith.ui.sd_scripts_page import help_page
from lorasmith.ui.train import Engine, lower_packages, refuse_if_held
from lorasmith.ui.translator import Translator
from lorasmith.ui.which_run import train_command

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start

Notes = Sequence[tuple[str, dict[str, Any]]]  # warnings: code and fields
LORA_IN_STATE = ("sd_resume_has_lora", {"arguments": ["--network_weights"]})


def train_network(
    arguments: list[str], words: Translator, command: str, *, engine: Engine | None = None, here: Path | None = None
) -> int:
    """Runs the command as if typed in the folder `here` (default: the current folder); returns the exit status.

    Raises:
        TrainerError: refused before anything was changed.
    """
    if "--version" in arguments:
        print(f"lorasmith {__version__}")
        return int(ExitCode.FINISHED)
    here = here or Path.cwd()
    check_environment(os.environ)
    line, script = without_launcher(arguments, _script_of(command))
    given = parsed(line, script, here)
    if "help" in given.ours:
        print(help_page(words, command, script))
        return int(ExitCode.FINISHED)
    if given.has("output_config"):
        return _write_config(given, words, here)
    translation = translated(given)
    engine = engine or lower_packages()
    try:
        settings, request = split_request({**translation.values, GIVEN: translation.given})
        refuse_if_held(run_at(here, request.output))
        start = _planned(given, settings, request, words, engine=engine, here=here)
        if translation.shares:  # now the number of steps is known
            steps = {at: int(share * start.stop_at) for at, share in translation.shares.items()}
            start = _planned(given, settings | steps, request, words, engine=engine, here=here)
    except ConfigError as error:
        raise _by_argument(error, translation, words) from None
    start = _with_notes(start, translation.notes)

    from lorasmith.ui.watching import watch  # imported late: bad arguments are refused without loading rich

    command = train_command(command, request.output)
    return watch(start, engine.supervise(start), words=words, command=command, verbose=request.verbose)


def _planned(
    given: Given, settings: Values, request: Request, words: Translator, *, engine: Engine, here: Path
) -> Start:
    if given.has("resume"):
        kept = {at: value for at, value in settings.items() if at != ("adapter", "init_from")}
        start = resumed(here / given.value("resume"), kept, request, engine=engine, here=here)
        return start if kept == settings else _with_notes(start, [LORA_IN_STATE])
    return engine.new_run(settings, request, state_prefix=words.state_prefix, here=here)


def _with_notes(start: Start, notes: Notes) -> Start:
    """The start with notes in front of its warnings, also when it is planned again."""
    replan = start.replan
    again = None if replan is None else lambda: _with_notes(replan(), notes)
    return replace(start, warnings=(*notes, *start.warnings), replan=again)


def resumed(path: Path, settings: Values, request: Request, *, engine: Engine, here: Path) -> Start:
    """The start that continues the run of a state, to the number of steps or epochs that the whole run has.

    Raises:
        ConfigError: `sd_resume_unknown`, `sd_resume_foreign`, the state is none of this program's;
            `sd_resume_other_run`, another output is named; `sd_resume_done`, there are no steps left.
    """
    found = named_state(path)
    if found is None:
        code = "sd_resume_foreign" if (path / "optimizer.bin").exists() else "sd_resume_unknown"
        raise ConfigError(code, path=str(path))
    named = run_at(here, request.output)
    if named.root.resolve() != found.run.root.resolve():
        raise ConfigError("sd_resume_other_run", path=str(path), found=str(found.run.root), named=str(named.root))
    refuse_if_held(found.run)
    return _resumed(found, settings, request, engine=engine, here=here)


def _resumed(found: NamedState, settings: Values, request: Request, *, engine: Engine, here: Path) -> Start:
    done = _step_of(found, engine)

    def until(target: Request) -> Start:
        return engine.continued_run(found.run, settings, target, from_state=found.state, here=here)

    steps = request.steps
    if steps is None:  # the number of steps in these epochs follows from the pictures
        steps = until(request).stop_at - done
    if steps <= done:
        raise ConfigError("sd_resume_done", done=done, steps=steps)
    start = until(request.model_copy(update={"steps": steps - done, "epochs": None}))

    def again() -> Start:
        """The steps that are left differ if the run went on before its lock was free."""
        if _step_of(found, engine) == done:
            return start.replanned()
        return _resumed(found, settings, request, engine=engine, here=here)

    return replace(start, replan=again)


def _step_of(found: NamedState, engine: Engine) -> int:
    """The step that a run continues from."""
    if not found.state:
        return engine.progress_of(found.run).done
    states, _ = find_states(found.run.root)
    return next((state.step for state in states if state.path.name == found.state), 0)


def _script_of(command: str) -> Script:
    """The script that was typed; `lorasmith train-network` takes the arguments of both."""
    name = command.split()[-1]
    return SCRIPTS.get(name, "sdxl_train_network")


def _write_config(given: Given, words: Translator, here: Path) -> int:
    if not given.has("config_file"):
        raise ConfigError("sd_output_config_nowhere")
    path = config_file(given, here)
    write_config(given, path)
    print(words.say("sd_scripts.config_written", file=str(path)))
    return int(ExitCode.FINISHED)


def _by_argument(error: ConfigError, translation: Translation, words: Translator) -> ConfigError:
    """An error about the value of an option, as an error about the argument that the option was made from."""
    if error.code == "base_model_unnamed":
        return ConfigError("sd_model_unnamed")
    option = str(error.fields.get("option", ""))
    if error.code != "config_value" or option not in translation.arguments:
        return error
    return ConfigError(
        "sd_value",
        argument=translation.arguments[option],
        value=error.fields["value"],
        expected=expected(words, option) or error.fields["expected"],
    )
