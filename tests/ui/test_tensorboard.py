from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ConfigError, InputError
from lorasmith.messages import LANGUAGES
from lorasmith.reports.projections import projections_of
from lorasmith.ui import tensorboard as module
from lorasmith.ui.tensorboard import free_port, has_screen, tensorboard
from lorasmith.ui.translator import Translator
from tests.reading.made_runs import begun, ended, made_run, stepped

ROOT = Path(__file__).parents[2]
WORDS = Translator("en")
STEPS = 1500  # more than TensorBoard keeps of a curve unless it is told to keep all


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listening() -> socket.socket:
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken


def asked(address: str, path: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}{path}", timeout=100) as response:
        return json.load(response)


def data_servers() -> list[str]:
    """Command lines of the processes in which TensorBoard reads the files of this test's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [line] if "data_server" in line and str(Path.cwd()) in line else []
    return found


@pytest.mark.ci
@pytest.mark.skipif(os.name == "nt", reason="Ctrl+C is sent through a pseudo-terminal")
def test_a_real_server_answers_with_every_step_and_ends_with_ctrl_c(here: Path) -> None:
    import pexpect

    run = made_run(here / "lora_output", [begun(STEPS), *stepped(1, STEPS), ended(STEPS)])
    with closing(projections_of(run)) as projections:
        projections.rewrite()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LORASMITH_LANG": "en", "COLUMNS": "200"}
    with listening() as taken:
        port = taken.getsockname()[1]
        command = ["-m", "lorasmith", "tensorboard", "--no-browser", "--port", str(port)]
        # As in a terminal: what was started in the background, these tests among it, ignores Ctrl+C.
        heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        child = pexpect.spawn(sys.executable, command, env=environment, encoding="utf-8", timeout=100, preexec_fn=heeds)
        child.expect(f"Port {port} is taken; using ([0-9]+)\r")
        free = int(child.match.group(1))
        assert free > port
        address, points = f"http://localhost:{free}", []
        child.expect_exact(WORDS.say("tensorboard.ready", address=address))
        child.expect("Ctrl")
        give_up_at = time.monotonic() + 100
        while len(points) < STEPS and time.monotonic() < give_up_at:
            tags = asked(address, "/data/plugin/scalars/tags")
            if "loss/current" in tags.get(".", {}):
                points = asked(address, "/data/plugin/scalars/scalars?run=.&tag=loss/current")
            time.sleep(0.1)
        assert [step for _, step, _ in points] == list(range(1, STEPS + 1))
        assert abs(points[-1][2] - (1 - STEPS / 1000)) < 1e-6
        if Path("/proc/self").exists():
            assert len(data_servers()) == 1
        child.sendintr()
        child.expect_exact(WORDS.say("tensorboard.ended"))
        child.expect(pexpect.EOF)
        child.close()
    assert child.exitstatus == 0
    assert data_servers() == []


@pytest.mark.ci
@pytest.mark.skipif(not Path("/proc/self").exists() or os.name == "nt", reason="looks for processes in /proc")
def test_a_closed_window_leaves_no_server_behind(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(here / "lora_output", [begun(1), *stepped(1, 1)])
    with closing(projections_of(run)) as projections:
        projections.rewrite()
    program = "import sys\nfrom lorasmith.ui.cli import main\nsys.exit(main(['tensorboard', '--no-browser']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL) as child:
        give_up_at = time.monotonic() + 100
        while not data_servers() and time.monotonic() < give_up_at:
            time.sleep(0.02)
        assert data_servers()
        child.terminate()
        assert child.wait(timeout=100) == 0
    assert data_servers() == []


def test_no_curves_yet_says_how_to_make_some(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tensorboard([], WORDS, "lorasmith tensorboard") == 0
    assert "`lorasmith train --new --steps 100`" in capsys.readouterr().out
    assert list(here.iterdir()) == []


def with_events(here: Path) -> None:
    folder = here / "lora_output" / "logs"
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.1").touch()


def test_the_browser_is_opened_once_it_answers(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_events(here)
    calls: list[Any] = []
    monkeypatch.setattr(module, "launch", lambda _folder, port: calls.append(port))
    monkeypatch.setattr(module, "free_port", lambda port: port)
    monkeypatch.setenv("DISPLAY", ":0")
    browsers: list[subprocess.Popen[bytes]] = []

    def browse(address: str) -> None:
        calls.append(address)
        browsers.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

    monkeypatch.setattr("webbrowser.open", browse)

    def wait(_seconds: float) -> None:
        raise KeyboardInterrupt

    assert tensorboard([], WORDS, "lorasmith tensorboard", wait=wait) == 0
    assert calls == [6006, "http://localhost:6006"]
    with browsers[0] as browser:
        assert browser.poll() is None, "a browser is not ended with the server"
        browser.kill()
    assert "http://localhost:6006" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is always a screen there")
def test_without_a_screen_no_browser_takes_the_terminal() -> None:
    assert not has_screen({}) and not has_screen({"DISPLAY": ""})
    assert has_screen({"DISPLAY": ":0"}) and has_screen({"WAYLAND_DISPLAY": "w"}) and has_screen({"BROWSER": "x"})


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_does_not_start_says_why(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard import program

    def refuse(_self: program.TensorBoard) -> str:
        sys.stderr.write("NOTE: fast data loading\n")
        raise program.TensorBoardPortInUseError("it was already in use\n")

    with_events(here)
    monkeypatch.setattr(program.TensorBoard, "launch", refuse)
    try:
        with pytest.raises(InputError) as caught:
            tensorboard(["--no-browser"], WORDS, "lorasmith tensorboard")
    finally:
        logging.disable(logging.NOTSET)
    assert (caught.value.code, caught.value.fields) == ("tensorboard_died", {"reason": "it was already in use"})


def test_without_tensorboard_the_package_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_events(here)
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError) as caught:
        tensorboard([], WORDS, "lorasmith tensorboard")
    assert caught.value.name == "tensorboard"


def test_a_taken_port_gives_the_next_free_one() -> None:
    with listening() as taken:
        port = taken.getsockname()[1]
        assert free_port(port) > port
    assert free_port(port) == port


def test_no_free_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_free", lambda _port: False)
    with pytest.raises(InputError) as caught:
        free_port(65530)
    assert caught.value.fields == {"port": 65530, "last": 65535}


@pytest.mark.parametrize("port", ["0", "65536", "-1", "abc", "1.5"])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tensorboard([f"--port={port}"], WORDS, "lorasmith tensorboard")
    assert caught.value.fields["option"] == "port"


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_names_every_option(language: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tensorboard(["--help"], Translator(language), "lorasmith tensorboard") == 0
    page = capsys.readouterr().out
    for option in ("--port N", "--no-browser", "--output FOLDER", "--lang en|zh-TW", "--help"):
        assert option in page
