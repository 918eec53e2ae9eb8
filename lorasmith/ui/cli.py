"""The program `lorasmith`: chooses the command and shows every failure.

Only modules without third-party imports are imported at the top, so that even a missing dependency is reported in a
sentence.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from lorasmith import __version__
from lorasmith.errors import ConfigError, ExitCode, TrainerError
from lorasmith.faults import check_fault
from lorasmith.file_names import is_beyond_locale, name_beyond_locale
from lorasmith.libraries import PACKAGES, as_input_error, is_our_own, lacks_all
from lorasmith.messages import choose_language
from lorasmith.option_names import closest
from lorasmith.sd_scripts.launcher import script_among
from lorasmith.sd_scripts.table import names_of_options
from lorasmith.ui.encodings import in_own_bytes, make_streams_lenient, translator_for
from lorasmith.ui.folder_settings import folder_text
from lorasmith.ui.translator import Translator

# Command -> its function (arguments, words, command) -> exit code, imported when the command is used.
COMMANDS = {
    "train": "lorasmith.ui.train:train",
    "train-network": "lorasmith.ui.train_network:train_network",
    "demo": "lorasmith.ui.demo:demo",
    "plan": "lorasmith.ui.plan:plan",
    "logs": "lorasmith.ui.logs:logs",
    "report": "lorasmith.ui.report:report",
    "tensorboard": "lorasmith.ui.tensorboard:tensorboard",
    "inspect": "lorasmith.ui.inspect:inspect",
    "convert": "lorasmith.ui.tools:convert",
    "merge": "lorasmith.ui.tools:merge",
    "resize": "lorasmith.ui.tools:resize",
    "extract": "lorasmith.ui.tools:extract",
    "import": "lorasmith.ui.import_config:import_config",
    "doctor": "lorasmith.ui.doctor:doctor",
}

ACTIVATE = r".venv\Scripts\activate" if os.name == "nt" else ". .venv/bin/activate"
Command = Callable[[list[str], Translator, str], int]


class AbandonedError(Exception):
    """The user left at a prompt; nothing has been changed."""


def main(argv: Sequence[str] | None = None, *, script: str = "") -> int:
    """Runs a command and returns the exit status. Every failure but a bug is shown instead of raised.

    Args:
        argv: the command and its arguments; default: those of the process.
        script: the command line that texts show for a script with a name of its own: `python train_lora.py`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    make_streams_lenient()
    words = translator_for(language_of(arguments, os.environ, Path.cwd()))
    if arguments[:1] == ["train-network"]:
        words = words.naming(names_of_options(script_among([*script.split(), *arguments])))
    try:
        check_fault()
        _refuse_undecoded([*arguments, str(Path.cwd())])
        return _dispatch(arguments, words, script)
    except TrainerError as error:
        _complain(words, error.code, error.fields)
        return int(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or is_our_own(error):
            raise
        _complain(words, *_missing(error.name.split(".")[0]))
        return int(ExitCode.BAD_INPUT)
    except ImportError as error:  # it is installed and cannot be loaded
        if is_our_own(error):
            raise
        found = as_input_error(error)
        _complain(words, found.code, found.fields)
        return int(ExitCode.BAD_INPUT)
    except (KeyboardInterrupt, AbandonedError):
        print(file=sys.stderr)
        return int(ExitCode.BAD_INPUT)
    except BrokenPipeError:  # `| head` closed the pipe; a run's own lines never come here
        return int(ExitCode.FINISHED)
    except OSError as error:
        _complain(words, "system_refused", {"reason": str(error)})
        return int(ExitCode.CRASHED)
    finally:
        _flush()


def _missing(module: str) -> tuple[str, dict[str, object]]:
    """The error about a module of a library that is not installed."""
    if lacks_all():
        return "program_not_installed", {"python": sys.executable, "activate": ACTIVATE}
    return "dependency_missing", {"module": module, "command": f"pip install {PACKAGES.get(module, module)}"}


def language_of(arguments: Sequence[str], environment: Mapping[str, str], here: Path) -> str:
    """The language of messages. Chosen before parsing, so that parse errors are translated too."""
    asked = ""
    for number, argument in enumerate(arguments):
        name, is_joined, value = argument.partition("=")
        if name == "--lang":
            asked = value if is_joined else next(iter(arguments[number + 1 : number + 2]), "")
    return choose_language(asked, folder_text(here, "lang"), environment)


def _refuse_undecoded(names: Sequence[str]) -> None:
    """Refuses arguments and a current folder in characters that the locale cannot encode.

    Raises:
        ConfigError: `name_beyond_locale`.
    """
    for name in names:
        if is_beyond_locale(name):
            raise name_beyond_locale(name)


def _dispatch(arguments: list[str], words: Translator, script: str) -> int:
    name = next((argument for argument in arguments if not argument.startswith("-")), "")
    if arguments and arguments[0] in COMMANDS:
        name = arguments[0]
        module, _, function = COMMANDS[name].partition(":")
        run: Command = getattr(import_module(module), function)
        return run(arguments[1:], words, script or f"lorasmith {name}")
    if "--version" in arguments:
        print(f"lorasmith {__version__}")
        return int(ExitCode.FINISHED)
    if not arguments or arguments[0] in ("-h", "--help") or "--help" in arguments:
        print(overview(words))
        return int(ExitCode.FINISHED if arguments else ExitCode.BAD_INPUT)
    given = name or arguments[0]
    nearest = closest(given, COMMANDS)
    if not nearest:
        raise ConfigError("command_unrecognised", given=given, commands=list(COMMANDS))
    raise ConfigError("command_unknown", given=given, nearest=nearest)


def overview(words: Translator) -> str:
    """The text of `lorasmith --help`: a line for each command."""
    lines = [
        words.say("help.about"),
        "",
        words.say("help.usage", command="lorasmith", rest=words.say("help.command")),
        "",
    ]
    lines.append(words.say("help.commands"))
    width = max(map(len, COMMANDS)) + 2
    lines += [f"  {name:<{width}}{words.say(f'command.{name}')}" for name in COMMANDS]
    return "\n".join([*lines, "", words.say("help.more")])


def _complain(words: Translator, code: str, fields: dict[str, object]) -> None:
    if code in ("config_value", "option_without_value", "subset_value"):
        # What an option takes, in the reader's language. Imported here, as the import that failed may be among these.
        from lorasmith.ui.option_help import expected
        from lorasmith.ui.options import COMMAND_OPTIONS

        option = str(fields["option"])
        own = {command_option.name: command_option.value for command_option in COMMAND_OPTIONS}
        otherwise = fields.get("expected", own.get(option, ""))
        fields = {**fields, "expected": expected(words, option) or otherwise}
    if code == "name_beyond_locale":
        fields = {**fields, "name": in_own_bytes(str(fields["name"]))}
    print(*words.error(code, fields), sep="\n", file=sys.stderr)


def _flush() -> None:
    """Writes the rest of stdout. A closed pipe (`| head`) is no error at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
