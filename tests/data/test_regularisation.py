from pathlib import Path

import pytest

from lorasmith.data.regularisation import dealt, unused_regularisation, with_dealt_repeats
from lorasmith.data.types import Example, Offset, Size

SIDE = Size(64, 64)


@pytest.mark.parametrize(
    ("own", "wanted", "repeats"),
    [
        ([1, 1, 1, 1], 15, [4, 4, 4, 3]),
        ([2] * 20, 15, [2] * 8 + [0] * 12),
        ([3, 1], 4, [3, 1]),
        ([3, 1], 9, [6, 3]),
        ([5], 0, [0]),
        ([], 7, []),
    ],
)
def test_regularisation_pictures_are_dealt_out(own: list[int], wanted: int, repeats: list[int]) -> None:
    assert dealt(own, wanted) == repeats


def test_dealing_goes_round() -> None:
    for own in ([1], [2, 1, 3], [4, 4]):
        for wanted in range(40):
            repeats, turn, total = [0] * len(own), 0, 0
            while total < wanted:
                place = turn % len(own)
                more = own[place] if turn < len(own) else 1
                repeats[place] += more
                total, turn = total + more, turn + 1
            assert dealt(own, wanted) == repeats


def test_each_group_has_its_own(tmp_path: Path) -> None:
    def example(name: str, repeats: int, subset: int, *, is_reg: bool = False) -> Example:
        return Example(
            Path(name), "", repeats, SIDE, SIDE, SIDE, Offset(0, 0), "", "", subset=subset, is_regularisation=is_reg
        )

    examples = [
        example("a", 3, 0),
        example("b", 1, 1, is_reg=True),
        example("c", 1, 1, is_reg=True),
        example("d", 5, 2),
        example("e", 1, 3, is_reg=True),
        example("f", 1, 4, is_reg=True),
    ]
    found = with_dealt_repeats(examples, [0, 0, 1, 1, 2])
    assert [(one.image.name, one.repeats) for one in found] == [("a", 3), ("b", 2), ("c", 1), ("d", 5), ("e", 5)]
    assert unused_regularisation(examples, found) == [examples[5]]
