"""`lorasmith tensorboard`: serves TensorBoard on the logs of a run until Ctrl+C.

TensorBoard runs in this process, by its own Python API: nothing of it can outlive the command.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from importlib.util import find_spec
from pathlib import Path

from lorasmith.errors import ConfigError, ExitCode, InputError
from lorasmith.libraries import importing_library
from lorasmith.runtime.stop_signals import ENDINGS, StopSignals
from lorasmith.ui.switches import parse_switches, switches_help
from lorasmith.ui.translator import Translator
from lorasmith.ui.which_run import how_to_make_some, output_named, run_named, train_command

SWITCHES = {"port": "N", "no-browser": "", "output": "FOLDER", "lang": "en|zh-TW", "help": ""}
EVENT_FILES = "events.out.tfevents.*"
HOST = "localhost"
PORT = 6006
MAX_PORTS = 50
POLL_SECONDS = 0.2
MAX_POINTS = 10_000_000  # of a curve: every step, where TensorBoard would thin them out (its 0 means none to some)
MAX_IMAGES = 200
MAX_REASON = 300  # characters

Wait = Callable[[float], None]


def tensorboard(arguments: list[str], words: Translator, command: str, *, wait: Wait = time.sleep) -> int:
    """Shows the curves until Ctrl+C; returns the exit status.

    Raises:
        ConfigError: bad arguments.
        InputError: TensorBoard cannot be loaded or does not start.
        ModuleNotFoundError: it is not installed.
    """
    given = parse_switches(arguments, SWITCHES)
    if "help" in given:
        print(switches_help(words, command, "tensorboard", SWITCHES))
        return int(ExitCode.FINISHED)
    wanted = _port(given.get("port"))
    here, output = Path.cwd(), given.get("output")
    run = run_named(output, here)
    if not any(run.tensorboard.glob(EVENT_FILES)):
        print(*how_to_make_some(words, run, train=train_command(command, output_named(output, here))), sep="\n")
        return int(ExitCode.FINISHED)
    if find_spec("tensorboard") is None:
        raise ModuleNotFoundError(name="tensorboard")
    port = free_port(wanted)
    if port != wanted:
        print(words.say("tensorboard.port_taken", port=wanted, free=port))
    print(words.say("tensorboard.starting", folder=run.tensorboard), flush=True)
    with suppress(KeyboardInterrupt), StopSignals(ENDINGS) as stops, _serving(run.tensorboard, port):
        address = f"http://{HOST}:{port}"
        print(words.say("tensorboard.ready", address=address))
        print(words.say("tensorboard.leave"), flush=True)
        if "no-browser" not in given and has_screen(os.environ):
            import webbrowser

            webbrowser.open(address)
        while not stops.stop_requested:
            wait(POLL_SECONDS)
    print(f"\n{words.say('tensorboard.ended')}")
    return int(ExitCode.FINISHED)


def has_screen(environment: Mapping[str, str]) -> bool:
    """Whether a browser would open a window: on a server a text browser would take over the terminal."""
    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("win32", "darwin") or any(environment.get(name) for name in names)


def launch(folder: Path, port: int) -> None:
    """Starts the server in a thread of this process; it listens when this returns.

    Raises:
        InputError: `tensorboard_died`, or what `importing_library` raises.
    """
    warnings.simplefilter("ignore")  # its own, and those of its requests later
    logging.disable()
    with importing_library():
        from tensorboard import program

        server = program.TensorBoard()
    arguments = ["tensorboard", "--logdir", str(folder), "--host", HOST, "--port", str(port), "--reload_interval", "5"]
    arguments += ["--samples_per_plugin", f"scalars={MAX_POINTS},images={MAX_IMAGES}"]
    try:
        with redirect_stderr(io.StringIO()) as printed:
            server.configure(argv=arguments)
            server.launch()
    except (program.TensorBoardServerException, OSError, SystemExit) as error:
        lines = [line.strip() for line in f"{printed.getvalue()}\n{error}".splitlines() if line.strip()]
        raise InputError("tensorboard_died", reason=lines[-1][:MAX_REASON]) from error


@contextmanager
def _serving(folder: Path, port: int) -> Iterator[None]:
    """Serves while the block runs. Then it ends the process in which TensorBoard reads the files, which would exit by
    itself only after this process."""
    import psutil

    launch(folder, port)
    data_servers = psutil.Process().children()  # taken now: later a browser may be a child too
    try:
        yield
    finally:
        for process in data_servers:
            with suppress(psutil.Error):
                process.kill()
                process.wait()


def free_port(wanted: int) -> int:
    """Returns `wanted`, or the next port that nothing listens on.

    Raises:
        InputError: all of them are taken.
    """
    last = min(65535, wanted + MAX_PORTS - 1)
    for port in range(wanted, last + 1):
        if _is_free(port):
            return port
    raise InputError("no_free_port", port=wanted, last=last)


def _is_free(port: int) -> bool:
    """Whether the port is free at every address that `localhost` has here."""
    for family, kind, protocol, _, address in socket.getaddrinfo(HOST, port, type=socket.SOCK_STREAM):
        try:
            with socket.socket(family, kind, protocol) as tried:
                if os.name != "nt":  # a port that was closed a moment ago is free; there it would mean taken ones
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
        except OSError:
            return False
    return True


def _port(text: str | None) -> int:
    if text is None:
        return PORT
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ConfigError("config_value", option="port", value=repr(text), expected="1-65535")
    return int(text)
