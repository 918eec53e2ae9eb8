"""A start is plain, frozen data."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from lorasmith.config import RunConfig
from lorasmith.runs.layout import RunFolder
from lorasmith.runtime.start import Start


def test_a_start_of_a_new_run_resumes_from_nothing() -> None:
    start = Start(RunFolder(Path("x")), RunConfig(), 5, is_new=True, first_step=0)
    assert (start.resume, start.warnings) == (None, ())


def test_a_plan_that_cannot_have_aged_is_the_same_again() -> None:
    start = Start(RunFolder(Path("x")), RunConfig(), 5, is_new=True, first_step=0)
    assert start.again() is start
    other = Start(RunFolder(Path("x")), RunConfig(), 6, is_new=False, first_step=5)
    assert Start(RunFolder(Path("x")), RunConfig(), 5, False, 0, replan=lambda: other).again() is other


def test_it_cannot_be_changed() -> None:
    start = Start(RunFolder(Path("x")), RunConfig(), 5, is_new=True, first_step=0)
    with pytest.raises(FrozenInstanceError):
        start.stop_at = 6  # type: ignore[misc]
