"""Lets torch's threads wait asleep while another program wants their cores, and spin while none does.

Between two parallel pieces of a step libgomp's threads spin for milliseconds, which is quickest while every thread has
a core of its own. Where one must share it, the others burn their time waiting for it, and a step of thousands of pieces
takes many times as long. libgomp itself spins only briefly while its threads outnumber the cores; it reads no setting
once it runs, so a second team of threads, which does nothing, makes it so for as long as that is wanted. No result
depends on it. Works with libgomp on Linux; anywhere else nothing happens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

LOOK_SECONDS = 0.25
# Share of the time in which a thread of this process wanted to run and had to wait for a core.
BUSY_SHARE, QUIET_SHARE = 0.2, 0.1
QUIET_LOOKS = 20  # in a row before threads spin again: a neighbour that pauses is not gone
_TASKS = Path("/proc/self/task")
_PARALLEL_NUMBERS = 1 << 17  # enough that torch shares them among its threads


@contextmanager
def threads_waiting_by_need() -> Iterator[None]:
    """While the context lasts, a thread beside training watches how long the others wait for a core, and has them spin
    or sleep."""
    end = threading.Event()
    watcher = threading.Thread(target=_watch, args=(end,), name="thread-waiting", daemon=True)
    is_needed = torch.get_num_threads() > 1 and bool(_waits())
    if is_needed:
        watcher.start()
    try:
        yield
    finally:
        end.set()
        if is_needed:
            watcher.join()


class Crowd:
    """A second team of libgomp's threads, asleep until `leave`."""

    def __init__(self) -> None:
        self._leaving = threading.Event()
        self._leader = threading.Thread(target=self._gather, name="thread-waiting-crowd", daemon=True)
        self._leader.start()

    def leave(self) -> None:
        self._leaving.set()
        self._leader.join()

    def _gather(self) -> None:
        # A thread that has computed in parallel keeps its team for as long as it lives.
        torch.zeros(_PARALLEL_NUMBERS).add_(1)
        self._leaving.wait()


class SleepRule:
    """Decides from look to look whether threads are to sleep while they wait."""

    def __init__(self) -> None:
        self.asleep = False
        self._quiet_looks = 0

    def look(self, share: float) -> bool:
        """Takes the share of the time since the last look that the longest-waiting thread waited for a core."""
        self._quiet_looks = self._quiet_looks + 1 if share < QUIET_SHARE else 0
        if share > BUSY_SHARE:
            self.asleep = True
        elif self._quiet_looks >= QUIET_LOOKS:
            self.asleep = False
        return self.asleep


def _watch(end: threading.Event) -> None:
    rule = SleepRule()
    crowd: Crowd | None = None
    waits, at = _waits(), time.monotonic()
    while not end.wait(LOOK_SECONDS):
        before, before_at = waits, at
        waits, at = _waits(), time.monotonic()
        longest = max((waits[task] - before[task] for task in waits.keys() & before.keys()), default=0.0)
        if rule.look(longest / (at - before_at)):
            crowd = crowd or Crowd()
        elif crowd is not None:
            crowd.leave()
            crowd = None
    if crowd is not None:
        crowd.leave()


def _waits() -> dict[str, float]:
    """Seconds that each thread of this process has waited for a core so far, by its id; {} where the system does not
    say. Source: the second number, in nanoseconds, of /proc/<pid>/task/<tid>/schedstat (Linux, sched-stats).
    """
    waits = {}
    for path in _TASKS.glob("*/schedstat"):
        with suppress(OSError, LookupError, ValueError):  # the thread has ended
            waits[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return waits
