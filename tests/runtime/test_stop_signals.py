"""Counted in this process. (tests/end_to_end/test_stop_signals.py has a supervisor that is told by them.)"""

import os
import signal
import sys

import pytest

from lorasmith.runtime import stop_signals
from lorasmith.runtime.stop_signals import StopSignals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process cannot send itself these there")
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.parametrize(
    ("sent", "stop_requested", "kill_requested"),
    [
        ([], False, False),
        ([(0, INT)], True, False),
        ([(0, TERM)], True, False),
        ([(0, HUP)], True, False),
        ([(0, INT), (1, INT)], True, True),
        ([(0, INT), (0.1, INT)], True, False),  # the same press, passed on by whoever started us
        ([(0, INT), (0.1, INT), (1, INT)], True, True),
        ([(0, HUP), (0, HUP), (0, TERM), (1, TERM)], True, False),
        ([(0, TERM), (1, INT)], True, False),
        ([(0, TERM), (1, INT), (2, INT)], True, True),
    ],
)
def test_what_signals_mean(
    sent: list[tuple[float, signal.Signals]],
    stop_requested: bool,
    kill_requested: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(stop_signals, "monotonic", lambda: now[0])
    before = [signal.getsignal(one) for one in (INT, TERM, HUP)]
    with StopSignals() as stops:
        for at, number in sent:
            now[0] = at
            os.kill(os.getpid(), number)
        assert (stops.stop_requested, stops.kill_requested) == (stop_requested, kill_requested)
    assert [signal.getsignal(one) for one in (INT, TERM, HUP)] == before


def test_under_nohup_the_end_of_the_terminal_is_none_of_the_run() -> None:
    before = signal.signal(HUP, signal.SIG_IGN)
    try:
        with StopSignals() as stops:
            os.kill(os.getpid(), HUP)
            assert not stops.stop_requested
            assert signal.getsignal(HUP) is signal.SIG_IGN
        assert signal.getsignal(HUP) is signal.SIG_IGN
    finally:
        signal.signal(HUP, before)
