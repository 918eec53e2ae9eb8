"""`lorasmith train`: resolves the command line, asks for what is missing, starts a run and shows it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasmith import __version__
from lorasmith.config import Request, RunConfig, load_flat_toml
from lorasmith.data.order import AUTO_FROM, is_main_subject
from lorasmith.errors import ConfigError, ExitCode, LockedError, ModelError, ResourceError
from lorasmith.messages import choose_language
from lorasmith.runs.layout import RunFolder, run_at
from lorasmith.runs.locks import is_held
from lorasmith.ui.encodings import translator_for
from lorasmith.ui.folder_settings import (
    FOLDER_SETTINGS,
    read_folder_settings,
    remember_base_model,
    with_given,
    with_notice,
)
from lorasmith.ui.option_help import train_help
from lorasmith.ui.options import EPOCHS, STEPS, CommandLine, Mode, Values, layered, parse, split_request
from lorasmith.ui.prompts import Prompter, can_ask
from lorasmith.ui.translator import Translator
from lorasmith.ui.which_run import typed

if TYPE_CHECKING:
    from lorasmith.runtime.preflight import Start
    from lorasmith.runtime.progress import RunProgress
    from lorasmith.ui.watching import Supervised

DEFAULT_STEPS = 100
BASE_MODEL = ("model", "base_model")
BASE_FORM = ("model", "base_form")
VAE, TEXT_ENCODER = ("model", "vae"), ("model", "text_encoder")
HOLD_OUT = ("dataset", "hold_out")
LANG = ("request", "lang")


@dataclass(frozen=True, slots=True)
class Engine:
    """The functions of lower packages that `train` calls, so that tests can replace them."""

    new_run: Callable[..., Start]
    progress_of: Callable[[RunFolder], RunProgress]
    continued_run: Callable[..., Start]
    supervise: Callable[[Start], Supervised]
    find_checkpoints: Callable[[Path, Mapping[str, str]], list[Path]]
    repeats_in: Callable[[RunConfig, Path], tuple[int, ...]]  # repeats of each picture of a config
    suggested_steps: Callable[[int], tuple[int, int | None]]  # number of pictures -> (least, most)


def train(
    arguments: list[str], words: Translator, command: str, *, engine: Engine | None = None, here: Path | None = None
) -> int:
    """Runs the command as if typed in the folder `here` (default: the current folder); returns the exit status.

    Raises:
        TrainerError: refused before anything was changed.
    """
    line = parse(arguments)
    if line.wants:
        shows_all = line.wants == "help-all"
        print(
            f"lorasmith {__version__}" if line.wants == "version" else train_help(words, command, shows_all=shows_all)
        )
        return int(ExitCode.FINISHED)
    here = here or Path.cwd()
    config = load_flat_toml(line.config) if line.config is not None else {}
    words = words_of(config, line, words)
    desk = StartResolver(words, here, engine or lower_packages())
    mode = line.mode or desk.ask_mode(layered(config, line.values))
    start, request = desk.new(line, config) if mode == "new" else desk.continued(line, config)

    from lorasmith.ui.watching import watch  # imported late: bad arguments are refused without loading rich

    output = request.output if here == Path.cwd() else _from_here(here / request.output)
    if output != Request().output:  # commands that are suggested later must be about this run
        command = typed([*command.split(), "--output", output])
    return watch(start, desk.engine.supervise(start), words=words, command=command, verbose=request.verbose)


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@dataclass(frozen=True, slots=True)
class StartResolver:
    """Merges the settings of a start and asks for what is missing."""

    words: Translator
    here: Path
    engine: Engine

    def ask_mode(self, values: Values) -> Mode:
        if not can_ask():
            raise ConfigError("mode_unnamed")
        run = run_at(self.here, split_request(values)[1].output)
        return Prompter(self.words).mode(default="continue" if run.ledger.exists() else "new")

    def new(self, line: CommandLine, config: Values) -> tuple[Start, Request]:
        """The start of a new run: command line over --config over the folder's settings."""
        values = layered(read_folder_settings(self.here), config, line.values)
        refuse_if_held(run_at(self.here, split_request(values)[1].output))  # before any question
        asked_model = ""
        if not values.get(BASE_MODEL):
            asked_model = self._ask_base_model()
            values[BASE_MODEL] = asked_model
        if HOLD_OUT not in values and can_ask():
            self._offer_hold_out(values)
        if STEPS not in values and EPOCHS not in values:
            if not can_ask():
                raise ConfigError("steps_unnamed")
            print(self._advice(split_request(values)[0]))
            values[STEPS] = Prompter(self.words).steps(default=DEFAULT_STEPS)
        settings, request = split_request(values)
        settings = with_given(settings, config.keys() | line.values.keys(), self.here)
        start = self._planned(settings, request)
        if asked_model:  # only now it is known to be a base model
            self._remember(asked_model)
        return start, request

    def continued(self, line: CommandLine, config: Values) -> tuple[Start, Request]:
        """The start of a continued run: command line over --config over the run's own settings."""
        values = layered(config, line.values)
        run = run_at(self.here, split_request(values)[1].output)
        refuse_if_held(run)
        progress = self.engine.progress_of(run)
        if STEPS not in values and EPOCHS not in values and can_ask():
            print(self.words.say("prompt.done", done=progress.done, target=progress.stop_at))
            left = progress.steps_left if progress.steps_left > 0 and not line.from_state else DEFAULT_STEPS
            values[STEPS] = Prompter(self.words).steps(default=left)
        settings, request = split_request(values)
        start = self.engine.continued_run(run, settings, request, from_state=line.from_state, here=self.here)
        return with_notice(start, values, self.here), request

    def _offer_hold_out(self, values: Values) -> None:
        """Before the first run in a folder with enough pictures: offers to hold some out, to measure the best step."""
        settings, request = split_request(values)
        if run_at(self.here, request.output).ledger.exists():
            return
        pictures = sum(is_main_subject(self.engine.repeats_in(RunConfig().with_values(settings), self.here)))
        if pictures >= AUTO_FROM and Prompter(self.words).hold_out(pictures=pictures, count=pictures // AUTO_FROM):
            values[HOLD_OUT] = "auto"

    def _advice(self, settings: Values) -> str:
        """The suggested number of steps for the pictures in the folder, and how often each is then seen."""
        config = RunConfig().with_values(settings)
        repeats = self.engine.repeats_in(config, self.here)
        if not repeats:
            return self.words.say("prompt.advice")
        least, most = self.engine.suggested_steps(len(repeats))
        per_step = config.training.batch_size * config.training.accumulation_steps
        counts = [least] if most is None else [least, most]
        seen = [f"{steps * per_step / len(repeats):.3g}" for steps in counts]
        return "\n".join(
            [
                self.words.say("prompt.advice"),
                self.words.say(
                    "prompt.pictures",
                    pictures=len(repeats),
                    steps="–".join(map(str, counts)) + ("+" if most is None else ""),
                    times="–".join(seen) + ("+" if most is None else ""),
                ),
            ]
        )

    def _ask_base_model(self) -> str:
        if not can_ask():
            raise ConfigError("base_model_unnamed")
        return Prompter(self.words).base_model(self.engine.find_checkpoints(self.here, os.environ))

    def _planned(self, settings: Values, request: Request) -> Start:
        """The start; what neither files nor settings tell about the base model is asked."""
        while True:
            try:
                return self.engine.new_run(settings, request, state_prefix=self.words.state_prefix, here=self.here)
            except ModelError as error:
                settings = settings | self._answer(error, settings)

    def _answer(self, error: ModelError, settings: Values) -> Values:
        """The setting that the error lacks, as the user states it.

        Raises:
            ModelError: the error, where something else is wrong, there is no terminal or the user does not know.
        """
        if not can_ask():
            raise error
        if error.code == "part_several":
            path = Prompter(self.words).part(error.fields["part"], error.fields["paths"])
            is_vae = error.fields["option"] == "vae"
            return {VAE: path} if is_vae else {TEXT_ENCODER: (*settings.get(TEXT_ENCODER, ()), path)}
        form = "" if error.code != "model_form_unnamed" else Prompter(self.words).base_form(**error.fields)
        if not form:
            raise error
        print(self.words.say("prompt.base_form_chosen", form=form))
        return {BASE_FORM: form}

    def _remember(self, base_model: str) -> None:
        try:
            is_written = remember_base_model(self.here, base_model)
        except (OSError, ResourceError) as error:
            fields = {"file": FOLDER_SETTINGS, "reason": str(error)}
            print(*self.words.warning("base_model_not_remembered", fields), sep="\n")
            return
        if is_written:
            print(self.words.say("prompt.remembered", file=FOLDER_SETTINGS))
        else:
            fields = {"file": FOLDER_SETTINGS, "reason": self.words.say("prompt.no_place")}
            print(*self.words.warning("base_model_not_remembered", fields), sep="\n")


def words_of(config: Values, line: CommandLine, words: Translator) -> Translator:
    """The translator of the language in --config, unless the command line names another."""
    wish: Any = config.get(LANG, "")
    if line.values.get(LANG) or not wish:
        return words
    language = choose_language(wish, "", os.environ)
    return words if language in (words.language, words.asked) else translator_for(language)


def refuse_if_held(run: RunFolder) -> None:
    """Refuses a folder in use before all pictures are read. The supervisor checks again when it takes the lock."""
    with suppress(OSError):  # taking the lock will report it
        if is_held(run.lock):
            raise LockedError("folder_locked", folder=str(run.root))


def lower_packages() -> Engine:
    """The real functions. Each imports its module when it is called, so that a refused start does not wait for it."""
    from lorasmith.families.locate import find_checkpoints
    from lorasmith.runtime.preflight import continued_run, new_run
    from lorasmith.runtime.progress import progress_of

    return Engine(new_run, progress_of, continued_run, _supervise, find_checkpoints, _repeats_in, _suggested_steps)


def _supervise(start: Start) -> Supervised:
    from lorasmith.runtime.supervisor import Supervisor

    return Supervisor(start)


def _repeats_in(config: RunConfig, here: Path) -> tuple[int, ...]:
    from lorasmith.inputs import repeats_in

    return repeats_in(config, here)


def _suggested_steps(pictures: int) -> tuple[int, int | None]:
    from lorasmith.planning.plan import suggested_steps

    return suggested_steps(pictures)
