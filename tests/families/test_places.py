"""A tensor may be a part of the rows of another, or stored turned; every byte is read once."""

import pytest

from lorasmith.families.headers import TensorInfo
from lorasmith.families.places import Place, shapes_at, whole

FUSED = TensorInfo("F16", (12, 5), 1000, 1120)


def test_parts_of_rows_follow_each_other() -> None:
    found = [Place("fused", part, 3).info(FUSED) for part in range(3)]
    assert [(info.start, info.end) for info in found] == [(1000, 1040), (1040, 1080), (1080, 1120)]
    assert {info.shape for info in found} == {(4, 5)}
    assert Place("fused", 2, 3).shape((6,)) == (2,)


def test_a_turned_tensor_is_read_as_it_is_stored() -> None:
    place = Place("fused", is_transposed=True)
    assert place.info(FUSED) == FUSED
    assert place.shape(FUSED.shape) == (5, 12)
    assert shapes_at({"ours": place}, {"fused": (2, 3)}) == {"ours": (3, 2)}


def test_several_parts_may_be_taken_together() -> None:
    place = Place("fused", 1, 3, span=2)
    assert place.shape((12, 5)) == (8, 5)
    assert (place.info(FUSED).start, place.info(FUSED).end, place.info(FUSED).shape) == (1040, 1120, (8, 5))


def test_numbers_in_one_row_that_belong_in_several() -> None:
    place = Place("flat", rows=6)
    assert place.shape((48,)) == (6, 8)
    assert place.info(TensorInfo("F32", (48,), 0, 192)) == TensorInfo("F32", (6, 8), 0, 192)
    with pytest.raises(ValueError, match="flat"):
        place.shape((47,))


def test_halves_are_swapped_where_there_are_two() -> None:
    assert Place("turned", swaps_halves=True).info(FUSED) == FUSED
    with pytest.raises(ValueError, match="turned"):
        Place("turned", swaps_halves=True).shape((5, 2))


@pytest.mark.parametrize("shape", [(), (13, 5)])
def test_rows_that_cannot_be_divided(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="fused"):
        Place("fused", 1, 3).shape(shape)


def test_only_a_matrix_can_be_turned() -> None:
    with pytest.raises(ValueError, match="fused"):
        Place("fused", is_transposed=True).info(TensorInfo("F32", (4,), 0, 16))


def test_a_renaming_finds_whole_tensors() -> None:
    find = whole(lambda component, names: {f"{component}.{name}": name for name in names})
    assert find("vae", ["a"]) == {"vae.a": Place("a")}


def test_a_1x1_convolution_may_stand_for_a_linear_layer() -> None:
    place = Place("a", is_matrix=True)
    assert place.shape((4, 6, 1, 1)) == place.shape((4, 6)) == (4, 6)
    assert place.info(TensorInfo("F32", (4, 6, 1, 1), 8, 104)) == TensorInfo("F32", (4, 6), 8, 104)
