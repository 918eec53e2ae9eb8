"""A full disk is tried again, for so long, and no longer. (In a real run: tests/faults/test_disk_full.py.)"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from lorasmith.errors import ResourceError
from lorasmith.session.disk_full import AGAIN_SECONDS, BEAT_SECONDS, MAX_SECONDS, DiskFullRetry


@dataclass
class Story:
    """Actions that find room from some moment on, and what happened meanwhile."""

    now: float = 50.0
    told: list[str] = field(default_factory=list)

    def retry(self) -> DiskFullRetry:
        return DiskFullRetry(now=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds == BEAT_SECONDS
        self.now += seconds

    def action(self, name: str, free_at: float = 0.0, code: str = "disk_full") -> Callable[[], None]:
        def act() -> None:
            self.told.append(name if self.now >= free_at else f"{name}?")
            if self.now < free_at:
                raise ResourceError(code, path="/x")

        return act

    def wait(self, *actions: Callable[[], None], stop_at: float = 1e9) -> None:
        self.retry().wait(
            actions,
            begins=lambda: self.told.append("waits"),
            alive=lambda: self.told.append("."),
            stop_requested=lambda: self.now >= stop_at,
        )


def test_with_room_everything_is_done_at_once() -> None:
    story = Story()
    story.wait(story.action("a"), story.action("b"))
    assert (story.told, story.now) == (["a", "b"], 50.0)


def test_without_it_is_tried_every_ten_seconds_with_a_beat_each_second() -> None:
    story = Story()
    story.wait(story.action("a"), story.action("b", free_at=65), story.action("c", free_at=72))
    wait = ["."] * round(AGAIN_SECONDS)
    assert story.told == ["a", "b?", "waits", *wait, "b?", *wait, "b", "c?", *wait, "c"]


def test_ten_minutes_are_for_all_of_it() -> None:
    story = Story()
    with pytest.raises(ResourceError):
        story.wait(story.action("a", free_at=50 + MAX_SECONDS - 100), story.action("b", free_at=1e9))
    assert story.now == 50 + MAX_SECONDS
    assert story.told.count("b?") == 11 and story.told.count("waits") == 1


def test_a_stop_request_ends_it_after_one_more_try() -> None:
    story = Story()
    with pytest.raises(ResourceError):
        story.wait(story.action("a", free_at=1e9), stop_at=53)
    assert story.told == ["a?", "waits", ".", ".", ".", "a?"]
    story = Story()
    story.wait(story.action("a", free_at=53), stop_at=53)
    assert story.told[-1] == "a"


def test_another_trouble_is_not_waited_for() -> None:
    story = Story()
    with pytest.raises(ResourceError) as caught:
        story.wait(story.action("a", free_at=60, code="disk_unreliable"))
    assert (caught.value.code, story.now) == ("disk_unreliable", 50.0)


def test_a_failed_save_is_due_again() -> None:
    story = Story()
    retry = story.retry()
    assert not retry.is_waiting and not retry.is_due() and not retry.succeeded()
    assert retry.failed() and retry.is_waiting and not retry.is_due()
    story.now += AGAIN_SECONDS
    assert retry.is_due()
    assert not retry.failed() and not retry.is_due(), "the next ten seconds begin"
    assert retry.succeeded() and not retry.is_waiting and not retry.succeeded()
