"""Batch sizes that are tried: in what order, how far, and what is said of each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psutil
import pytest

from lorasmith.data.folder import Scan
from lorasmith.planning.estimate import ProbeResult, Unmeasured
from lorasmith.planning.speed import NO_MEMORY, Trial, as_plain, try_batch_sizes
from tests.planning.test_plan import MEASURED

ANY: Any = None  # the start and its pictures, of which only the probe knows
FOUND: Scan = ANY
GIBIBYTE = 2**30


def tried(probed: Callable[[int], ProbeResult | Unmeasured]) -> list[Trial]:
    return list(try_batch_sizes(ANY, FOUND, probe=lambda _start, _found, *, batch_size: probed(batch_size)))


def sizes(trials: list[Trial]) -> list[int]:
    return [trial.batch_size for trial in trials]


def test_all_are_tried_while_pictures_come_faster() -> None:
    found = tried(lambda size: replace(MEASURED, step_seconds=1.0, peak_memory=0))
    assert sizes(found) == [1, 2, 4, 8, 16]
    assert [trial.pictures_per_second for trial in found] == [1, 2, 4, 8, 16]


def test_it_ends_after_the_first_that_is_no_faster() -> None:
    found = tried(lambda size: replace(MEASURED, step_seconds=1.0 if size < 4 else size / 2, peak_memory=0))
    assert sizes(found) == [1, 2, 4]


@pytest.mark.parametrize("failed", [Unmeasured("worker_died", {"status": -9}), replace(MEASURED, was_split=True)])
def test_it_ends_with_the_first_that_does_not_fit(failed: ProbeResult | Unmeasured) -> None:
    found = tried(lambda size: failed if size == 4 else replace(MEASURED, step_seconds=1.0, peak_memory=0))
    assert sizes(found) == [1, 2, 4]
    assert found[-1].measured == (failed if isinstance(failed, Unmeasured) else NO_MEMORY)
    assert found[-1].pictures_per_second is None


@pytest.mark.parametrize(("has_own_memory", "last"), [(False, 4), (True, 16)])
def test_the_memory_of_other_programs_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, has_own_memory: bool, last: int
) -> None:
    """3 GiB and one for each picture: 8 pictures would need 11 GiB of 10 that are free."""
    free = replace_available(10 * GIBIBYTE)
    monkeypatch.setattr(psutil, "virtual_memory", free)
    probed = list[int]()

    def measured(size: int) -> ProbeResult:
        probed.append(size)
        memory = (3 + size) * GIBIBYTE
        return replace(MEASURED, step_seconds=1.0, peak_memory=memory, has_own_memory=has_own_memory)

    found = tried(measured)
    assert probed[-1] == last
    assert (found[-1].measured == NO_MEMORY) is not has_own_memory


def replace_available(size: int) -> Callable[[], Any]:
    class Memory:
        available = size

    return Memory


@pytest.mark.parametrize(("rates", "share"), [((200e12, 150e12), 0.5), ((0.0, 400e12), 0.25), ((0.0, 0.0), None)])
def test_the_peak_is_what_the_maker_states_or_what_was_measured(
    rates: tuple[float, float], share: float | None
) -> None:
    stated, measured = rates
    probed = replace(MEASURED, step_seconds=0.5, step_flop=50e12, peak_flops=stated, matrix_flops=measured)
    trial = Trial(2, probed)
    assert trial.flops == 100e12
    assert trial.share_of_peak == share
    assert Trial(2, replace(probed, step_flop=0.0)).share_of_peak is None


def test_as_json_each_has_its_numbers_or_its_reason() -> None:
    plain = as_plain(Trial(2, replace(MEASURED, step_seconds=0.5, step_flop=1e12)))
    assert (plain["batch_size"], plain["pictures_per_second"], plain["flops"]) == (2, 4.0, 2e12)
    assert as_plain(Trial(4, NO_MEMORY)) == {"batch_size": 4, "code": "trial_no_memory", "fields": {}}
