"""Why an attempt ended, in words of whoever can tell. (tests/end_to_end/test_restarts.py has attempts that hang.)"""

from types import SimpleNamespace
from typing import Any

import pytest

from lorasmith.runs.events import RunStopped, WorkerHung
from lorasmith.runtime.attempt import Attempt

AT: dict[str, Any] = {"attempt": 1, "time": 0.0}
SAID = RunStopped(**AT, step=3, reason="failed", code="crashed", fields={"reason": "KeyError: 3"}, exit_code=70)
HUNG = WorkerHung(**AT, step=3, phase="step", silent_seconds=9.0, limit_seconds=5.0, stack="", is_stopped=True)


@pytest.mark.parametrize(
    ("ending", "hung", "reason"),
    [
        (None, None, "exit status -9"),
        (None, HUNG, ""),
        (SAID, HUNG, "KeyError: 3"),
        (RunStopped(**AT, step=3, reason="failed", code="disk_full", exit_code=6), None, "disk_full"),
    ],
)
def test_reason(ending: RunStopped | None, hung: WorkerHung | None, reason: str) -> None:
    gone: Any = SimpleNamespace(poll=lambda: -9)
    assert Attempt(1, gone, gone, ending=ending, hung=hung).reason == reason
