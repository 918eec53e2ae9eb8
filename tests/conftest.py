"""One thread everywhere: bytes depend on the thread count, and tests compare bytes. The suite may run under nohup."""

import gc
import os
import signal
from collections.abc import Iterator

import pytest

from lorasmith.processor import read_processor
from lorasmith.runtime.worker_environment import MKL_MODE, mkl_mode

os.environ["OMP_NUM_THREADS"] = "1"
if mode := mkl_mode(read_processor()):
    os.environ[MKL_MODE] = mode  # as a worker has it, so that runs in this process have the bytes of those in others
os.environ["HF_HUB_OFFLINE"] = "1"
# What somebody's shell or a machine of CI asks for: another language, colours in files, no moving lines.
for name in ("LORASMITH_LANG", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
    os.environ.pop(name, None)
if os.environ.get("TERM") in ("dumb", "unknown"):
    del os.environ["TERM"]
for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
    if os.environ.get(name, "").startswith("zh"):
        os.environ[name] = "C.UTF-8"

pytest_plugins = ["tests.end_to_end.fixtures"]

TIERS = ("ci", "slow", "long", "special", "gpu")  # a test that has none of these is in the default tier


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps every test in a single tier, so that a tier is what its marker selects."""
    for item in items:
        found = [name for name in TIERS if item.get_closest_marker(name)]
        if len(found) > 1:
            raise pytest.UsageError(f"{item.nodeid} is in several tiers: {', '.join(found)}")


@pytest.fixture(autouse=True, scope="module")
def little_to_look_through() -> None:
    """Spares what is loaded by now the garbage collector, which a run calls at each evaluation: it took most of one."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def hangups_reach_children() -> Iterator[None]:
    """What nohup has set to be ignored, children would inherit; a handler of our own they do not."""
    number = signal.Signals.__members__.get("SIGHUP")
    if number is None or signal.getsignal(number) is not signal.SIG_IGN:
        yield
        return
    signal.signal(number, lambda *_: None)
    yield
    signal.signal(number, signal.SIG_IGN)
