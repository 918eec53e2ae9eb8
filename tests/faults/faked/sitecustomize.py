"""Python imports this by itself where its folder is in PYTHONPATH: sleeping by a call that libfaketime leaves alone.

Python sleeps until a moment of the clock that only counts; libfaketime 0.9.10 takes every moment for one of the clock
that it falsifies, and the system refuses what becomes of it.
"""

import select
import time


def sleep(seconds: float) -> None:
    select.select([], [], [], max(0.0, seconds))


time.sleep = sleep
