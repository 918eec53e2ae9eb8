"""`lorasmith tensorboard`: TensorBoard on the logs of a run, from the start of its process to its end.

Knows what TensorBoard's command line is called and when it answers, nothing of what it shows.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lorasmith.errors import ConfigError, ExitCode, InputError
from lorasmith.runs.process_files import monotonic
from lorasmith.runtime.stop_signals import StopSignals
from lorasmith.ui.switches import parse_switches, switches_help
from lorasmith.ui.translator import Translator
from lorasmith.ui.which_run import how_to_make_some, output_named, run_named, train_command

if TYPE_CHECKING:
    import subprocess

SWITCHES = {"port": "N", "no-browser": "", "output": "FOLDER", "lang": "en|zh-TW", "help": ""}
EVENT_FILES = "events.out.tfevents.*"
HOST = "localhost"
PORT = 6006
PORTS_TRIED = 50
ANSWER_SECONDS = 60.0
POLL_SECONDS = 0.2
END_SECONDS = 3.0
MAX_POINTS = 10_000_000  # of a curve: every step, where TensorBoard would thin them out (its 0 means none to some)
MAX_IMAGES = 200
REASON_CHARACTERS = 300

Wait = Callable[[float], None]


def tensorboard(arguments: list[str], words: Translator, command: str, *, wait: Wait = time.sleep) -> int:
    """Shows the curves until Ctrl+C; the exit status.

    Raises:
        ConfigError: bad arguments.
        InputError: TensorBoard does not start here.
        ModuleNotFoundError: it is not installed.
    """
    given = parse_switches(arguments, SWITCHES)
    if "help" in given:
        print(switches_help(words, command, "tensorboard", SWITCHES))
        return int(ExitCode.FINISHED)
    asked = _port(given.get("port"))
    here, output = Path.cwd(), given.get("output")
    run = run_named(output, here)
    if not any(run.tensorboard.glob(EVENT_FILES)):
        print(*how_to_make_some(words, run, train=train_command(command, output_named(output, here))), sep="\n")
        return int(ExitCode.FINISHED)
    if find_spec("tensorboard") is None:
        raise ModuleNotFoundError(name="tensorboard")
    port = free_port(asked)
    if port != asked:
        print(words.say("tensorboard.port_taken", port=asked, free=port))
    print(words.say("tensorboard.starting", folder=run.tensorboard), flush=True)
    _serve(run.tensorboard, port, words, opens_browser="no-browser" not in given and has_screen(os.environ), wait=wait)
    print(f"\n{words.say('tensorboard.ended')}")
    return int(ExitCode.FINISHED)


def has_screen(environment: Mapping[str, str]) -> bool:
    """Whether a browser would have a window: on a server a text browser would take the terminal."""
    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("win32", "darwin") or any(environment.get(name) for name in names)


def _serve(folder: Path, port: int, words: Translator, *, opens_browser: bool, wait: Wait) -> None:
    """From the start of the process to a stop signal, after which it is gone."""
    with tempfile.TemporaryFile() as told, StopSignals() as stops:
        process = _start(folder, port, told)
        try:
            address = f"http://{HOST}:{port}"
            give_up_at = monotonic() + ANSWER_SECONDS
            while not stops.stop_requested and not _answers(address):
                _refuse_dead(process, told)
                if monotonic() >= give_up_at:
                    raise InputError("tensorboard_silent", seconds=round(ANSWER_SECONDS))
                wait(POLL_SECONDS)
            if not stops.stop_requested:
                print(words.say("tensorboard.ready", address=address))
                print(words.say("tensorboard.leave"), flush=True)
                if opens_browser:
                    import webbrowser

                    webbrowser.open(address)
            while not stops.stop_requested:
                _refuse_dead(process, told)
                wait(POLL_SECONDS)
        except KeyboardInterrupt:
            pass  # where no handler could be put in place
        finally:
            _end(process)


def free_port(asked: int) -> int:
    """`asked`, or the next one nobody listens on.

    Raises:
        InputError: they are all taken.
    """
    last = min(65535, asked + PORTS_TRIED - 1)
    for port in range(asked, last + 1):
        if _is_free(port):
            return port
    raise InputError("no_free_port", port=asked, last=last)


def _is_free(port: int) -> bool:
    """Whether it can be listened on under every address that `localhost` has here."""
    for family, kind, protocol, _, address in socket.getaddrinfo(HOST, port, type=socket.SOCK_STREAM):
        try:
            with socket.socket(family, kind, protocol) as tried:
                if os.name != "nt":  # a port that was let go of a moment ago is free; there it would mean taken ones
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


def _start(folder: Path, port: int, told: IO[bytes]) -> subprocess.Popen[bytes]:
    """The child, in a process group of its own: Ctrl+C comes here first, and it is ended from here."""
    import subprocess

    from lorasmith.runtime.processes import own_group

    command = [sys.executable, "-P", "-W", "ignore", "-m", "tensorboard.main"]
    command += ["--logdir", str(folder), "--host", HOST, "--port", str(port), "--reload_interval", "5"]
    command += ["--samples_per_plugin", f"scalars={MAX_POINTS},images={MAX_IMAGES}"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=told, stderr=told, **own_group())


def _refuse_dead(process: subprocess.Popen[bytes], told: IO[bytes]) -> None:
    if process.poll() is not None:
        raise InputError("tensorboard_died", status=process.returncode, reason=_last_line(told))


def _answers(address: str) -> bool:
    # No proxy: it is this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/data/environment", timeout=2.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _last_line(told: IO[bytes]) -> str:
    """What it said last."""
    told.seek(0)
    lines = told.read().decode(errors="replace").split("\n")
    return next((line.strip()[:REASON_CHARACTERS] for line in reversed(lines) if line.strip()), "")


def _end(process: subprocess.Popen[bytes]) -> None:
    import subprocess

    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
