import pytest

from lorasmith.engine.occasions import Occasions

CASES = [
    (0, 0, 3, 1, []),
    (5, 0, 3, 1, [5, 10]),
    (0, 1, 3, 1, [3, 6, 9, 12]),
    (0, 2, 3, 1, [6, 12]),
    (4, 2, 3, 1, [4, 6, 8, 12]),
    (0, 1, 10, 4, [3, 5, 8, 10]),  # 2.5 steps an epoch: the step that begins the next ends it
    (0, 1, 2, 4, list(range(1, 13))),  # two epochs a step
    (0, 3, 2, 4, [2, 3, 5, 6, 8, 9, 11, 12]),
]


@pytest.mark.parametrize(("every_steps", "every_epochs", "per_epoch", "accumulation", "steps"), CASES)
def test_steps_and_epochs(
    every_steps: int, every_epochs: int, per_epoch: int, accumulation: int, steps: list[int]
) -> None:
    occasions = Occasions(every_steps, every_epochs, lambda step: step * accumulation // per_epoch)
    assert [step for step in range(13) if occasions.is_due(step)] == steps
    assert occasions.are_any == bool(steps)


def test_an_epoch_is_named_by_its_number() -> None:
    occasions = Occasions(0, 2, lambda step: step * 4 // 3)
    assert [occasions.epoch_ended(step) for step in range(7)] == [None, None, 2, 4, None, 6, 8]
