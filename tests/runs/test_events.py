import dataclasses
import json
import math
import typing

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs import events
from lorasmith.runs.events import EVENTS, CheckpointSaved, Event, RunStarted, StepCompleted, Warned, decode, encode

VALUES = {
    int: 3,
    bool: True,
    float: 0.25,
    str: "路徑/a\nb\u2028c",
    dict: {"a": [1, None, {"b": True}]},
    list: ["x", "y"],
}


def example_of(kind: type[Event]) -> Event:
    """An event with every field filled in, none by its default."""
    hints = typing.get_type_hints(kind)
    given = {}
    for one in dataclasses.fields(kind):
        plain = [typing.get_origin(part) or part for part in typing.get_args(hints[one.name]) or [hints[one.name]]]
        origin = typing.get_origin(hints[one.name]) or hints[one.name]
        given[one.name] = VALUES[origin if origin in VALUES else plain[0]]
    return kind(**given)


def test_the_table_has_every_event() -> None:
    there = {name for name, one in vars(events).items() if isinstance(one, type) and issubclass(one, Event)}
    assert set(EVENTS) == there - {"Event"}
    assert all(name == kind.__name__ for name, kind in EVENTS.items())


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_one_line_and_comes_back(name: str) -> None:
    event = example_of(EVENTS[name])
    line = encode(event)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and len(line.splitlines()) == 1
    assert json.loads(line)["event"] == name
    assert decode(line) == event


def test_people_can_read_it() -> None:
    assert "狀態目錄".encode() in encode(
        CheckpointSaved(attempt=1, time=0.0, step=1, path="狀態目錄", sha256="", seconds=0)
    )


@pytest.mark.parametrize("path", ["a\udcffb", "a\ud800b"])
def test_a_file_name_that_is_no_text_comes_back_from_a_line_that_is(path: str) -> None:
    event = Warned(attempt=1, time=0.0, code="x", fields={"path": path, "other": "圖"})
    line = encode(event)
    line.decode("utf-8")
    assert decode(line) == event


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_reaches_no_ledger(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode(Warned(attempt=1, time=0.0, code="x", fields={"deep": [{"loss": number}]}))


def test_an_exit_code_is_written_as_its_number() -> None:
    event = events.RunStopped(attempt=1, time=0.0, step=None, reason="failed", exit_code=ExitCode.NON_FINITE)
    assert json.loads(encode(event))["exit_code"] == 8


def test_what_a_newer_version_says_is_passed_over() -> None:
    assert decode(b'{"event": "PictureDreamt", "attempt": 1, "time": 0, "step": 3}') is None
    line = encode(CheckpointSaved(attempt=1, time=0.0, step=7, path="p", sha256="s", seconds=0.5))
    newer = json.dumps({**json.loads(line), "mood": "good"}).encode()
    assert decode(newer) == decode(line)


def test_what_an_older_version_left_out_has_its_default() -> None:
    line = b'{"event":"RunStarted","attempt":1,"time":0,"identity":"i","resumed_from":null,"stop_at":5,"settings":{}}'
    event = decode(line)
    assert isinstance(event, RunStarted) and event.held_out == [] and event.changed == {}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0" * 80,
        b"null",
        b"[1]",
        b'"event"',
        b'{"attempt": 1}',
        b'{"event": null}',
        b'{"event": ["StepCompleted"]}',
        b'{"event": "StepCompleted", "attempt": 1}',
        b'{"event": "StepCompleted", "att',
        b'{"event": "Warned", "attempt": 1, "time": 0, "code": "\xff"}',
    ],
)
def test_what_is_no_whole_line_of_ours_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        example_of(StepCompleted).attempt = 2  # type: ignore[misc]
