"""States that are trouble: set aside or refused, the newest good one used, and nothing is believed that is not checked.

(Truncations and flipped bits: tests/runs/test_states.py, tests/faults.)
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.states import MANIFEST, OWN_FILES, SavedState, damage_of, find_states, manifest_bytes
from tests.abuse.refused import refused, snapshot
from tests.end_to_end.refusals import Desk


@pytest.fixture
def states(desk: Desk) -> Iterator[list[Path]]:
    """The states of the run, the newest first; as they were after the test."""
    found = [state.path for state in find_states(desk.workshop.run.root)[0]]
    for one in found:
        shutil.copytree(one, desk.folder / f"aside_{one.name}")
    yield found
    for one in found:
        shutil.rmtree(one, ignore_errors=True)
        (desk.folder / f"aside_{one.name}").rename(one)


def sign(folder: Path, **changed: Any) -> None:
    """A manifest that agrees with the files, as somebody who knows how would write it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    facts = {"step": 2, "identity": "x", **changed}
    (folder / MANIFEST).write_bytes(manifest_bytes(folder, step=facts["step"], identity=facts["identity"]))


MANIFESTS: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a circle": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "lists in lists": lambda path: path.write_bytes(b"[" * 10**6),
    "tables in tables": lambda path: path.write_bytes(b'{"a":' * 10**5),
    "10 GB": lambda path: os.truncate(path, 10 << 30),
    "a step that is none": lambda path: path.write_text('{"step": 1e999, "identity": ""}'),
    "a step of many digits": lambda path: path.write_text('{"step": %s, "identity": ""}' % ("9" * 10_000)),
    "half a letter": lambda path: path.write_bytes(b'{"step": 9, "identity": "\\ud800", "files": {}}'),
    "a text": lambda path: path.write_text('"manifest"'),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\0"),
    "files of elsewhere": lambda path: path.write_text('{"step":9,"identity":"","files":{"../../../etc/passwd":{}}}'),
    "files that are a number": lambda path: path.write_text('{"step": 9, "identity": "", "files": 5}'),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_manifest_that_lies_is_passed_over(desk: Desk, states: list[Path], what: str) -> None:
    MANIFESTS[what](states[0] / MANIFEST)
    before = snapshot(desk.folder)
    start = desk.go_on("lora_output", {})
    assert (start.first_step, start.resume) == (1, states[1])
    assert snapshot(desk.folder) == before


@pytest.mark.parametrize("what", MANIFESTS)
def test_where_all_lie_there_is_none(desk: Desk, states: list[Path], what: str) -> None:
    for state in states:
        MANIFESTS[what](state / MANIFEST)
    refused(desk.folder, lambda: desk.go_on("lora_output", {}), "no_usable_state", exit_code=ExitCode.NO_STATE)


@pytest.mark.parametrize("name", OWN_FILES)
def test_a_manifest_that_leaves_a_file_out(desk: Desk, states: list[Path], name: str) -> None:
    (states[0] / name).unlink()
    sign(states[0], identity=json.loads((states[1] / MANIFEST).read_bytes())["identity"])
    assert damage_of(SavedState(states[0], 2, "")) == f"missing:{name}"
    assert desk.go_on("lora_output", {}).resume == states[1]


@pytest.mark.parametrize("name", ["adapter.safetensors", "optimizer.pt", "random_states.pkl", "lr_scheduler.pt"])
@pytest.mark.parametrize("put", ["empty", "folder", "pipe", "of the other", "pickle", "gone"])
def test_a_file_that_is_not_its_own(desk: Desk, states: list[Path], name: str, put: str) -> None:
    path = states[0] / name
    content = path.read_bytes()
    path.unlink()
    if put == "folder":
        path.mkdir()
    elif put == "pipe":
        os.mkfifo(path)
    elif put != "gone":
        other = (states[1] / name).read_bytes()
        path.write_bytes({"empty": b"", "of the other": other, "pickle": b"\x80\x04cos\nsystem\n."}[put])
        assert path.read_bytes() != content
    assert desk.go_on("lora_output", {}).resume == states[1]
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def test_a_step_below_zero_is_never_the_newest(desk: Desk, states: list[Path]) -> None:
    sign(states[0], step=-5)
    assert desk.go_on("lora_output", {}).resume == states[1]


def test_a_state_of_another_run_under_this_one_s_name(desk: Desk, states: list[Path]) -> None:
    """Whole, and signed for another run: the worker says so, and nothing is changed."""
    sign(states[0], identity="of another run")
    before = snapshot(desk.workshop.run.root)
    assert desk.refusal(lambda: desk.go_on("lora_output", {}))[:2] == ("state_of_other_run", ExitCode.BAD_INPUT)
    after = snapshot(desk.workshop.run.root)
    assert after.keys() >= before.keys()
    assert {path: after[path] for path in before if b"state" in path} == {
        path: row for path, row in before.items() if b"state" in path
    }


@pytest.mark.parametrize("name", ["../lora_train_set", "/etc", "x" * 5000, "\x1b[2J", "-1"])
def test_a_state_named_that_is_none(desk: Desk, states: list[Path], name: str) -> None:
    assert states
    refused(
        desk.folder,
        lambda: desk.go_on("lora_output", {}, from_state=name),
        "state_unknown",
        exit_code=ExitCode.NO_STATE,
    )


LEDGERS: dict[str, bytes] = {
    "zeros": bytes(10_000),
    "lists in lists": b"[" * 10**6 + b"\n",
    "no text": b"\xff\xfe\n" * 100,
    "a number of many digits": b'{"kind": "StepCompleted", "step": %s}\n' % (b"9" * 10_000),
    "nothing": b"",
}


@pytest.mark.parametrize("what", LEDGERS)
def test_a_ledger_that_says_nothing(desk: Desk, states: list[Path], what: str) -> None:
    ledger = desk.workshop.run.ledger
    whole = ledger.read_bytes()
    try:
        ledger.write_bytes(LEDGERS[what])
        assert desk.go_on("lora_output", {}).resume == states[0]
        ledger.write_bytes(whole + LEDGERS[what])
        assert desk.go_on("lora_output", {}).resume == states[0]
    finally:
        ledger.write_bytes(whole)
