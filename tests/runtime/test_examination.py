"""The process that looks at the machine: its answer, and what is said where it has none."""

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from lorasmith.runtime import examination
from lorasmith.runtime.examination import examine, processor_facts


def played(monkeypatch: pytest.MonkeyPatch, end: Callable[[], Any]) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_given, **_more: end())


def test_the_answer_is_what_the_process_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    played(monkeypatch, lambda: subprocess.CompletedProcess([], 0, b'{"threads": 2}', b""))
    assert examine() == {"threads": 2}


@pytest.mark.parametrize(
    ("errors", "failure"),
    [(b"Traceback\nImportError: no such symbol\n", "ImportError: no such symbol"), (b"", "exit status 3")],
)
def test_a_process_that_fails_leaves_its_last_line(
    monkeypatch: pytest.MonkeyPatch, errors: bytes, failure: str
) -> None:
    played(monkeypatch, lambda: subprocess.CompletedProcess([], 3, b"", errors))
    assert examine() == {"failure": failure}


def test_a_process_that_does_not_answer_is_waited_for_two_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    def end() -> None:
        raise subprocess.TimeoutExpired([], 120)

    played(monkeypatch, end)
    assert examine() == {"failure": "no answer within 120 s"}


def test_the_processor_has_a_name() -> None:
    facts = processor_facts()
    assert facts["name"] and set(facts["instructions"]) <= set(examination.INSTRUCTIONS)
