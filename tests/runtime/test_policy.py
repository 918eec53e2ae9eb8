"""The rules as tables: what was seen, how much time passed, what follows."""

from itertools import product

import pytest

from lorasmith.errors import ExitCode
from lorasmith.runs.process_files import Heartbeat
from lorasmith.runtime.policy import (
    MAX_AT_ONCE_SECONDS,
    DeferredLinesNotice,
    Ended,
    ObservedClock,
    Restarts,
    StallDetector,
    TimeBudget,
    meaning_of,
)

CRASHED, STUCK, STOPPED, FINISHED = ExitCode.CRASHED, ExitCode.STUCK, ExitCode.STOPPED, ExitCode.FINISHED
MINUTE, DAY, YEARS = 60.0, 86_400.0, 10 * 365 * 86_400.0


# -- time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("looks", "passed"),
    [
        ([0.0, 0.1, 0.3], [0.1, 0.2]),
        ([5.0, 5.0], [0.0]),
        ([0.0, 3600.0, 3600.1], [MAX_AT_ONCE_SECONDS, 0.1]),  # the watcher slept
        ([100.0, 40.0, 40.5], [0.0, 0.5]),  # no clock of a system does this; it would harm nobody
    ],
)
def test_only_time_in_which_somebody_looked_counts(looks: list[float], passed: list[float]) -> None:
    watched = ObservedClock(looks[0])
    assert [watched.passed(now) for now in looks[1:]] == pytest.approx(passed)


# -- the first rule --------------------------------------------------------------------------------


def beats(silence: StallDetector, *rows: tuple[float, str, int]) -> None:
    """(seconds since the last look, phase, beat) each; with every beat one more micro-batch is done."""
    for seconds, phase, beat in rows:
        silence.observe(seconds, Heartbeat(step=0, phase=phase, beat=beat, micro_batches=beat))


@pytest.mark.parametrize(
    ("phase", "has_stepped", "limit"),
    [
        ("loading", False, 600),
        ("loading", True, 600),  # evaluation loads the encoders again
        ("compiling", True, 600),
        ("caching", False, 600),
        ("step", False, 600),
        ("saving", False, 600),
        ("step", True, 100),
        ("saving", True, 100),
        ("exporting", True, 100),
        ("evaluating", True, 100),
    ],
)
def test_each_phase_has_its_patience(phase: str, has_stepped: bool, limit: float) -> None:
    silence = StallDetector(100)
    silence.attempt_began()
    beats(silence, (1.0, phase, 1))
    if has_stepped:
        silence.step_completed(0.0)
    assert (silence.phase, silence.limit) == (phase, limit)
    silence.observe(limit, None)
    assert not silence.is_exceeded
    silence.observe(0.1, None)
    assert silence.is_exceeded


def test_before_the_first_beat_it_is_loading() -> None:
    silence = StallDetector(100)
    silence.attempt_began()
    assert (silence.phase, silence.step, silence.limit) == ("loading", 0, 600)
    silence.observe(600.1, None)
    assert silence.is_exceeded


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [([1.0] * 5, 100.0), ([5.0] * 5, 100.0), ([6.0] * 5, 120.0), ([30.0, 30.0, 30.0, 1000.0], 600.0)],
)
def test_twenty_median_micro_batches_where_that_is_longer(seconds: list[float], limit: float) -> None:
    silence = StallDetector(100)
    silence.step_completed(0.0)
    beats(silence, (0.0, "step", 1))
    for number, one in enumerate(seconds, 2):
        beats(silence, (one, "step", number))
    assert silence.limit == pytest.approx(limit)


def test_several_beats_between_two_looks_share_the_time() -> None:
    silence = StallDetector(1)
    silence.step_completed(0.0)
    beats(silence, (0.0, "step", 1), (10.0, "step", 11), (10.0, "step", 21))
    assert silence.limit == pytest.approx(20.0)


@pytest.mark.parametrize("looks_apart", [0.1, 0.9, 3.0])
def test_what_beats_at_the_ends_of_a_step_is_no_micro_batch(looks_apart: float) -> None:
    """As the worker does it, one micro-batch a step: a beat before it, one after it, one when the step is told."""
    silence = StallDetector(1)
    silence.step_completed(0.0)
    done, told = 5.0, 5.1  # seconds into each step of six
    for number in range(int(100 / looks_apart)):
        now = number * looks_apart
        step, into = divmod(now, 6.0)
        beat = 3 * int(step) + 1 + (into >= done) + (into >= told)
        micro_batches = int(step) + (into >= done)
        silence.observe(looks_apart, Heartbeat(step=int(step), phase="step", beat=beat, micro_batches=micro_batches))
    assert silence.limit == pytest.approx(120.0, rel=0.1)


def test_steps_with_a_save_after_each_measure_themselves() -> None:
    """Then no two beats follow each other within a step: without a measure a slow machine would count as stuck."""
    silence = StallDetector(300)
    beats(silence, (400.0, "step", 1))
    silence.step_completed(400.0)
    for beat in range(2, 12, 2):
        beats(silence, (1.0, "saving", beat), (400.0, "step", beat + 1))
        assert not silence.is_exceeded
        silence.step_completed(400.0)
    assert silence.limit == 8000.0


def test_a_step_with_beats_in_it_adds_nothing_of_its_own() -> None:
    silence = StallDetector(1)
    for beat in range(1, 40):
        beats(silence, (1.0, "step", beat))
        if beat % 8 == 0:
            silence.step_completed(8.0)
    assert silence.limit == pytest.approx(20.0)


def test_what_lies_between_phases_or_attempts_is_no_micro_batch() -> None:
    silence = StallDetector(1)
    silence.step_completed(0.0)
    beats(silence, (0.0, "step", 1), (50.0, "saving", 2), (50.0, "step", 3))
    silence.attempt_began()
    silence.step_completed(0.0)
    beats(silence, (70.0, "step", 1), (70.0, "loading", 2), (70.0, "step", 1))
    assert silence.limit == 1


def test_a_run_that_becomes_ten_times_as_slow_is_not_touched() -> None:
    """One micro-batch a step, at any speed."""
    for seconds in (0.01, 1.0, 60.0, 3600.0):
        silence = StallDetector(300)
        for beat in range(1, 60):
            beats(silence, (seconds * (1 if beat < 5 else 10), "step", beat))
            silence.step_completed(0.0)
            assert not silence.is_exceeded
        silence.observe(seconds * 10, None)
        assert not silence.is_exceeded, seconds


def test_the_same_beat_again_and_one_that_cannot_be_read_are_no_sign_of_life() -> None:
    silence = StallDetector(1)
    silence.step_completed(0.0)
    beats(silence, (0.0, "step", 5), (0.6, "step", 5))
    silence.observe(0.6, None)
    assert silence.is_exceeded
    beats(silence, (0.0, "step", 6))
    assert silence.seconds == 0 and not silence.is_exceeded


# -- the second rule -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_step", "steps", "stall_timeout", "limit"),
    [(30, 200, 300, 6000), (30, 10, 300, 1800), (30, 0, 300, 1800), (0.1, 50, 1, 6)],
)
def test_the_time_of_a_whole_run(per_step: float, steps: int, stall_timeout: float, limit: float) -> None:
    assert TimeBudget(per_step, steps, stall_timeout).limit == limit


@pytest.mark.parametrize("phase", ["loading", "caching", "saving", "exporting", "evaluating", "compiling"])
def test_only_steps_count(phase: str) -> None:
    budget = TimeBudget(1, 1, 1)
    budget.observe(YEARS, phase)
    assert (budget.spent, budget.is_exceeded) == (0, False)
    budget.observe(6.0, "step")
    assert budget.is_exceeded


def test_a_step_counts_as_long_as_it_says() -> None:
    """Not as long as was watched: a save may have come between two looks."""
    budget = TimeBudget(1, 100, 1)
    budget.observe(9.0, "step")
    budget.step_completed(2.0)
    assert (budget.spent, budget.since_step, budget.seconds_per_step) == (2.0, 0.0, 2.0)


def test_what_an_attempt_did_not_live_to_complete_counts_too() -> None:
    budget = TimeBudget(1, 1, 1)
    for _ in range(3):
        budget.attempt_began()
        budget.observe(2.0, "step")
    assert (budget.spent, budget.since_step) == (6.0, 6.0)
    assert budget.is_exceeded and not budget.is_moving(5.0)


@pytest.mark.parametrize(
    ("steps", "since", "patience", "is_moving"),
    [
        ([], 0.0, 100.0, False),  # none was ever completed
        ([10.0], 99.0, 100.0, True),
        ([10.0], 101.0, 100.0, False),
        ([80.0], 101.0, 100.0, True),  # within two steps as slow as this run's
        ([80.0], 161.0, 100.0, False),
    ],
)
def test_whether_a_run_is_moving(steps: list[float], since: float, patience: float, is_moving: bool) -> None:
    budget = TimeBudget(1, 1, 1)
    for seconds in steps:
        budget.step_completed(seconds)
    budget.observe(since, "step")
    assert budget.is_moving(patience) is is_moving


@pytest.mark.parametrize("seconds", [0.5, 31.0, 900.0, 7200.0])
def test_a_slow_run_that_moves_is_never_out_of_time(seconds: float) -> None:
    budget, raised = TimeBudget(30, 50, 300), 0
    for step in range(1, 51):
        for _ in range(100):
            budget.observe(seconds / 100, "step")
            if budget.is_exceeded:
                # The very first step has nothing to be measured by: what it may take is the option's to say.
                assert budget.is_moving(300) or step == 1
                budget.raise_for(50 - step)
                raised += 1
                assert not budget.is_exceeded
        budget.step_completed(seconds)
    assert raised < 12
    assert (raised > 0) is (seconds * 50 > 1800)


def test_a_run_whose_ledger_is_silent_moves_by_its_beats() -> None:
    """On a full disk the steps are told of later: a run is not out of time for that."""
    silence, budget = StallDetector(300), TimeBudget(1, 10, 1)
    for number in range(1, 400):
        if silence.observe(1.0, Heartbeat(step=number // 4, phase="step", beat=number, waiting=number)):
            budget.moved()
        budget.observe(1.0, silence.phase)
        if budget.is_exceeded:
            assert budget.is_moving(5.0)
            budget.raise_for(10)
    assert budget.spent == 399
    for number in range(400, 420):  # beats without a step
        assert not silence.observe(1.0, Heartbeat(step=99, phase="step", beat=number, waiting=400))
        budget.observe(1.0, silence.phase)
    assert not budget.is_moving(5.0)


def test_a_beat_of_another_phase_or_attempt_completes_no_step() -> None:
    silence = StallDetector(300)
    for step, phase, beat in ((500, "step", 9), (0, "loading", 1), (500, "step", 9), (10, "step", 1), (10, "step", 2)):
        assert not silence.observe(1.0, Heartbeat(step=step, phase=phase, beat=beat, waiting=1))
    assert silence.observe(1.0, Heartbeat(step=11, phase="step", beat=3, waiting=1))
    assert not silence.observe(1.0, Heartbeat(step=12, phase="step", beat=4)), "the ledger speaks for itself"


def test_a_backlog_is_due_once() -> None:
    backlog = DeferredLinesNotice()
    assert [backlog.is_due(waiting) for waiting in (0, 0, 1, 2, 0, 3, 0)] == [False, False, True] + [False] * 4


def test_it_learns_from_what_was_measured() -> None:
    budget = TimeBudget(1, 10, 1)
    for seconds in (3.0, 4.0, 100.0):
        budget.step_completed(seconds)
    budget.raise_for(20)
    assert budget.limit == 107.0 + 2 * 4.0 * 20


# -- how an attempt ended --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "meaning"),
    [
        (Ended(0, said=0), FINISHED),
        (Ended(-9, said=0), FINISHED),  # it was done, and did not leave
        (Ended(-9, said=0, is_hung=True), FINISHED),
        (Ended(-9, said=0, stop_requested=True), FINISHED),
        (Ended(-9, stop_requested=True, is_complete=True), FINISHED),  # a second Ctrl+C when all was there
        (Ended(0, is_complete=True), FINISHED),  # a full disk took no last line
        (Ended(0), "crashed"),  # sys.exit() in somebody's library
        (Ended(5, said=5), STOPPED),
        (Ended(5, said=5, stop_requested=True), STOPPED),
        (Ended(-9, stop_requested=True), STOPPED),
        (Ended(-9, stop_requested=True, is_hung=True), STOPPED),
        (Ended(70, said=70, stop_requested=True), CRASHED),
        (Ended(6, stop_requested=True), ExitCode.NO_RESOURCE),  # nothing could be saved, and not a line be written
        (Ended(2, said=2, is_out_of_room=True), ExitCode.NO_RESOURCE),  # a restart in the middle of a run
        (Ended(2, is_out_of_room=True), ExitCode.NO_RESOURCE),
        (Ended(2, said=2), ExitCode.BAD_INPUT),
        (Ended(70, said=70, is_out_of_room=True), "crashed"),
        (Ended(5, said=5, is_hung=True), "hung"),  # what ended it was the request before the kill
        (Ended(-9, is_hung=True), "hung"),
        (Ended(-15, is_hung=True), "hung"),
        (Ended(8, said=8, is_hung=True), ExitCode.NON_FINITE),
        (Ended(-9, is_over_limit=True), STUCK),
        (Ended(5, said=5, is_over_limit=True), STUCK),
        (Ended(0, said=0, is_over_limit=True), FINISHED),
        (Ended(70, said=70), "crashed"),
        (Ended(-9, said=70), "crashed"),
        (Ended(-9), "crashed"),
        (Ended(-11), "crashed"),
        (Ended(1), "crashed"),
        (Ended(7), "crashed"),
        (Ended(99), "crashed"),
        (Ended(-9, is_complete=True), "crashed"),  # killed on its way out: the next attempt finds nothing to do
    ],
)
def test_what_an_end_means(ended: Ended, meaning: object) -> None:
    assert meaning_of(ended) == meaning


@pytest.mark.parametrize(("code", "is_said"), list(product([2, 3, 4, 5, 6, 8], [False, True])))
def test_these_are_never_tried_again(code: int, is_said: bool) -> None:
    ended = Ended(code if not is_said else -9, said=code if is_said else None)
    assert meaning_of(ended) == ExitCode(code)


# -- restarts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first_step", "reached", "restarts"),
    [
        (0, [0, 0, 0, 0], 3),  # by each attempt: none gets anywhere
        (0, [5, 5, 5, 5], 3),
        (40, [40, 40, 40, 40], 3),
        (0, [5, 5, 5, 6, 6, 6, 6], 6),  # the third restart got further: three more
        (0, [5, 3, 2, 1], 3),  # doing again what was done before is no progress
        (0, [1, 2, 3, 4, 5, 6, 7, 8, 9], 9),
    ],
)
def test_three_restarts_in_a_row_without_progress(first_step: int, reached: list[int], restarts: int) -> None:
    rule = Restarts(first_step, no_restart=False)
    count = 0
    for highest in reached:
        for step in range(first_step + 1, highest + 1):
            rule.step_completed(step)
        if not rule.try_again():
            break
        count += 1
    assert count == restarts
    assert rule.highest == max(first_step, *reached)


def test_none_where_none_was_wanted() -> None:
    rule = Restarts(0, no_restart=True)
    rule.step_completed(3)
    assert not rule.try_again()
    assert rule.in_vain == 0
