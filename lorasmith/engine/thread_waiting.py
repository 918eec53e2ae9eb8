"""Lets torch's threads sleep while they wait if another program uses their cores, and spin otherwise.

Between two parallel regions of a step libgomp's threads spin for milliseconds, which is fastest while every thread has
a core of its own. If a thread must share its core, the others waste their time spinning until it is done, and a step
with thousands of regions takes many times as long. libgomp spins only briefly while its threads outnumber the cores,
and reads no setting once it runs; so a second team of idle threads makes them outnumber the cores for as long as that
is wanted. No result depends on it. Works with libgomp on Linux; does nothing elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

SAMPLE_SECONDS = 0.25
# Share of the time in which a thread of this process wanted to run and had to wait for a core.
BUSY_SHARE, QUIET_SHARE = 0.2, 0.1
QUIET_SAMPLES = 20  # in a row before threads spin again: another program may only have paused
_TASKS = Path("/proc/self/task")
_PARALLEL_NUMBERS = 1 << 17  # enough that torch splits the work among its threads


@contextmanager
def threads_waiting_by_need() -> Iterator[None]:
    """Runs a thread that measures how long the others wait for a core, and has them spin or sleep, while the context
    lasts."""
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
    """A second team of libgomp's threads that sleeps until `leave`."""

    def __init__(self) -> None:
        self._leaving = threading.Event()
        self._leader = threading.Thread(target=self._gather, name="thread-waiting-crowd", daemon=True)
        self._leader.start()

    def leave(self) -> None:
        self._leaving.set()
        self._leader.join()

    def _gather(self) -> None:
        # A thread that has run a parallel region keeps its team for as long as it lives.
        torch.zeros(_PARALLEL_NUMBERS).add_(1)
        self._leaving.wait()


class SleepRule:
    """Decides, sample by sample, whether threads should sleep while they wait."""

    def __init__(self) -> None:
        self.asleep = False
        self._quiet_samples = 0

    def update(self, share: float) -> bool:
        """Returns whether to sleep, given the share of the time since the last sample in which the longest-waiting
        thread waited for a core."""
        self._quiet_samples = self._quiet_samples + 1 if share < QUIET_SHARE else 0
        if share > BUSY_SHARE:
            self.asleep = True
        elif self._quiet_samples >= QUIET_SAMPLES:
            self.asleep = False
        return self.asleep


def _watch(end: threading.Event) -> None:
    rule = SleepRule()
    crowd: Crowd | None = None
    waits, at = _waits(), time.monotonic()
    while not end.wait(SAMPLE_SECONDS):
        before, before_at = waits, at
        waits, at = _waits(), time.monotonic()
        longest = max((waits[task] - before[task] for task in waits.keys() & before.keys()), default=0.0)
        if rule.update(longest / (at - before_at)):
            crowd = crowd or Crowd()
        elif crowd is not None:
            crowd.leave()
            crowd = None
    if crowd is not None:
        crowd.leave()


def _waits() -> dict[str, float]:
    """Seconds that each thread of this process has waited for a core so far, by its id; {} if the system does not
    report it. Source: the second number, in nanoseconds, of /proc/<pid>/task/<tid>/schedstat (Linux, sched-stats).
    """
    waits = {}
    for path in _TASKS.glob("*/schedstat"):
        with suppress(OSError, LookupError, ValueError):  # the thread has ended
            waits[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return waits
