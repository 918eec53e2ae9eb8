import ast
import errno
import os
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorasmith import faults
from lorasmith.errors import ConfigError
from lorasmith.faults import ACTIONS, POINTS, Fault, InjectedError, check_fault, choose_fault, fault_of, fault_point
from lorasmith.ui import cli
from tests.laws.source_tree import PACKAGE, ROOT, called, modules, parsed, text_of

# Functions that rename or sync and have no point -> why.
WITHOUT_A_POINT = {
    "data/cache.py:_set_aside": "a cached file that cannot be read: it is encoded again whatever becomes of it",
    "demo/stages.py:_save": "the making of the bundled base model, which is no run",
    "runs/durable.py:place_new": "write_atomically has the point behind it for a file; a folder is of a tool, no run",
    "runs/durable.py:_replace": "write_atomically has the point behind it",
}
SYNCS = ("fsync", "rename", "replace")


@pytest.fixture(autouse=True)
def no_fault() -> Iterator[None]:
    yield
    choose_fault("")


def in_a_process(fault: str, program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), faults.VARIABLE: fault}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def named_in_the_code() -> list[str]:
    return [
        str(text_of(node.args[0]))
        for path in modules()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and called(node) == "fault_point"
    ]


def test_every_point_in_the_code_is_in_the_table_once() -> None:
    assert sorted(named_in_the_code()) == sorted(POINTS)


def test_whatever_renames_or_syncs_has_a_point() -> None:
    lacking = set()
    for path in modules():
        for function in ast.walk(parsed(path)):
            if not isinstance(function, ast.FunctionDef):
                continue
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
            names = {called(call) for call in calls if _is_of_a_file(call)}
            if names & set(SYNCS) and "fault_point" not in {called(call) for call in calls}:
                lacking.add(f"{path.relative_to(PACKAGE).as_posix()}:{function.name}")
    assert lacking == set(WITHOUT_A_POINT)


def _is_of_a_file(call: ast.Call) -> bool:
    """Not `str.replace` and `dataclasses.replace`: os.replace, and a method of a path, which takes one argument."""
    if not isinstance(call.func, ast.Attribute):
        return False
    is_of_os = isinstance(call.func.value, ast.Name) and call.func.value.id == "os"
    return is_of_os or (len(call.args) == 1 and not call.keywords)


def test_nothing_happens_but_at_the_chosen_occurrence() -> None:
    choose_fault("state.renamed:3:exception")
    for _ in range(2):
        fault_point("state.renamed")
        fault_point("state.begun")
    with pytest.raises(InjectedError, match=r"state\.renamed"):
        fault_point("state.renamed")
    fault_point("state.renamed")


def test_a_full_disk_is_what_the_system_says() -> None:
    choose_fault("ledger.appending:1:no_space")
    with pytest.raises(OSError, match=r"ledger\.appending") as caught:
        fault_point("ledger.appending")
    assert caught.value.errno == errno.ENOSPC


REACH_IT = """
from lorasmith.faults import fault_point
fault_point('step.told')
print('alive', flush=True)
fault_point('step.told')
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_variable_kills_a_process_at_that_point() -> None:
    done = in_a_process("step.told:1:kill", REACH_IT)
    assert (done.returncode, done.stdout) == (-9, "")
    assert in_a_process("step.told:3:kill", REACH_IT).returncode == 0


def test_the_variable_halts_a_process_at_that_point() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), faults.VARIABLE: "step.told:2:hang"}
    child = subprocess.Popen([sys.executable, "-c", REACH_IT], env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "alive\n"
    time.sleep(0.3)
    assert child.poll() is None
    child.kill()
    child.communicate()


def test_what_the_variable_says() -> None:
    assert fault_of("file.written:12:no_space") == Fault("file.written", 12, "no_space")
    assert set(ACTIONS) == {"kill", "exception", "no_space", "hang"}


BAD = [
    "file.written",
    "file.written:1",
    "file.written:1:explode",
    "file.written:0:kill",
    "file.written:-1:kill",
    "file.written:x:kill",
    "file.written:1:kill:kill",
    "file.writtn:1:kill",
    ":::",
    "file.written:²:kill",
]


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_value_is_refused(bad: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        fault_of(bad)
    assert caught.value.fields["given"] == bad
    with pytest.raises(ConfigError):
        choose_fault(bad)
    check_fault()  # which left nothing chosen
    monkeypatch.setattr(faults, "_chosen", bad)
    assert cli.main(["train", "--lang", "en", "--help"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and faults.VARIABLE in said.err and bad in said.err
    with pytest.raises(ConfigError):  # also where no command has looked: a worker that was started by itself
        fault_point("step.told")


def test_a_bad_value_ends_the_program_with_two(tmp_path: Path) -> None:
    command = "import sys; from lorasmith.ui.cli import main; sys.exit(main(['train', '--new', '--steps', '5']))"
    done = in_a_process("file.writtn:1:kill", command)
    assert done.returncode == 2
    assert "`file.written`" in done.stderr and "Traceback" not in done.stderr


def test_without_the_variable_a_point_costs_nothing() -> None:
    """A step has about ten, and takes tens of milliseconds."""
    seconds = min(timeit.repeat(lambda: fault_point("step.told"), number=10_000, repeat=5)) / 10_000
    assert seconds < 2e-6
