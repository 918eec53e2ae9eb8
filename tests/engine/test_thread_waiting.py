"""When threads sleep while they wait, and when they spin again: by how long they waited for a core."""

import itertools
import threading
from collections.abc import Iterator

import pytest
import torch

from lorasmith.engine import thread_waiting
from lorasmith.engine.thread_waiting import QUIET_SAMPLES, Crowd, SleepRule, threads_waiting_by_need


@pytest.fixture
def two_threads(one_thread: None) -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def crowds() -> int:
    return sum(thread.name == "thread-waiting-crowd" for thread in threading.enumerate())


def test_a_share_that_every_machine_has_is_no_neighbour() -> None:
    rule = SleepRule()
    assert not any(rule.update(share) for share in (0.0, 0.1, 0.15, 0.19))


def test_threads_sleep_from_the_first_busy_look_to_the_last_of_many_quiet_ones() -> None:
    rule = SleepRule()
    assert rule.update(0.4)
    assert all(rule.update(0.01) for _ in range(QUIET_SAMPLES - 1))
    assert rule.update(0.15)  # neither busy nor quiet: the quiet samples count anew
    assert all(rule.update(0.01) for _ in range(QUIET_SAMPLES - 1))
    assert not rule.update(0.01)


def test_the_watcher_gathers_a_crowd_while_a_thread_waits_and_leaves_with_the_context(
    two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = itertools.count()
    seen = threading.Event()

    def waits() -> dict[str, float]:
        look = next(looks)
        if look > 3:
            seen.set()
        # The one that always waits, and one that is seen once and has waited for ever.
        return {"1": float(look), f"{look}0": 1e9}

    monkeypatch.setattr(thread_waiting, "_waits", waits)
    monkeypatch.setattr(thread_waiting, "SAMPLE_SECONDS", 0.01)
    with threads_waiting_by_need():
        assert seen.wait(60)
        assert crowds() == 1
    assert crowds() == 0


def test_nothing_is_gathered_where_no_thread_waits(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count()
    seen = threading.Event()

    def waits() -> dict[str, float]:
        if next(looks) > 3:
            seen.set()
        return {"1": 7.0}

    monkeypatch.setattr(thread_waiting, "_waits", waits)
    monkeypatch.setattr(thread_waiting, "SAMPLE_SECONDS", 0.01)
    with threads_waiting_by_need():
        assert seen.wait(60)
        assert crowds() == 0


def test_a_crowd_changes_no_bit(two_threads: None) -> None:
    x = torch.randn(300, 300, generator=torch.Generator().manual_seed(1))
    before = x @ x
    crowd = Crowd()
    during = x @ x
    crowd.leave()
    assert torch.equal(before, during) and torch.equal(x @ x, before)


def test_a_run_of_one_thread_has_no_watcher() -> None:
    with threads_waiting_by_need():
        assert all(thread.name != "thread-waiting" for thread in threading.enumerate())
