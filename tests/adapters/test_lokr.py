"""LoKr's matrices, their start and their scale; tests/contracts has its formula."""

from typing import Any

import pytest
from torch import nn

from lorasmith.adapters.base import LayerSettings
from lorasmith.adapters.lokr import W1, W1_A, W1_B, W2, W2_A, W2_B, Lokr, factors
from lorasmith.targets import LayerSpec
from tests.adapters.making import attached_to_all

LINEAR, CONVOLUTION = LayerSpec(320, 1280), LayerSpec(320, 640, (3, 3))


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        (127, -1, (1, 127)),  # as LyCORIS' `factorization` returns them
        (250, -1, (10, 25)),
        (360, 4, (4, 90)),
        (360, 16, (15, 24)),
        (512, -1, (16, 32)),
        (1024, -1, (32, 32)),
        (1024, 8, (8, 128)),
        (40, 20, (2, 20)),  # a factor that divides is taken, whichever is larger
    ],
)
def test_sizes_are_split_as_lycoris_does(size: int, most: int, expected: tuple[int, int]) -> None:
    assert factors(size, most) == expected


@pytest.mark.parametrize(
    ("options", "layer", "rank", "expected"),
    [
        ({}, LINEAR, 4, {W1: (16, 32), W2_A: (20, 4), W2_B: (4, 40)}),
        ({}, LINEAR, 20, {W1: (16, 32), W2: (20, 40)}),  # half of 40: no smaller than the matrix
        ({"decompose_both": True}, LINEAR, 4, {W1_A: (16, 4), W1_B: (4, 32), W2_A: (20, 4), W2_B: (4, 40)}),
        ({"decompose_both": True}, LINEAR, 17, {W1: (16, 32), W2_A: (20, 17), W2_B: (17, 40)}),
        ({"factor": 8}, LINEAR, 4, {W1: (8, 8), W2_A: (40, 4), W2_B: (4, 160)}),
        ({"full_matrix": True, "factor": 8}, LINEAR, 4, {W1: (8, 8), W2: (40, 160)}),
        ({}, CONVOLUTION, 4, {W1: (16, 20), W2_A: (20, 4), W2_B: (4, 288)}),
        ({}, CONVOLUTION, 16, {W1: (16, 20), W2: (20, 32, 3, 3)}),
    ],
)
def test_matrices_are_of_low_rank_where_that_is_smaller(
    options: dict[str, Any], layer: LayerSpec, rank: int, expected: dict[str, tuple[int, ...]]
) -> None:
    kind = Lokr(**options)
    shapes = kind.shapes(layer, LayerSettings(rank, 1.0))
    assert shapes == expected
    found, of_rank = kind.layer_of(shapes, layer.kernel)
    assert found == layer and kind.shapes(layer, LayerSettings(of_rank, 1.0)) == shapes


def test_whole_matrices_have_no_scale() -> None:
    """Readers ignore alpha there; those that would divide it by the rank of the metadata get 1 too."""
    kind = Lokr()
    for rank, scale in ((4, 0.5), (20, 1.0)):
        shapes = kind.shapes(LINEAR, LayerSettings(rank, rank / 2))
        alpha = kind.file_alpha(shapes, LayerSettings(rank, rank / 2))
        assert alpha / rank == kind.file_scale(shapes, alpha) == scale
    assert kind.file_scale(shapes, 3.0) == 1


def test_files_without_their_matrices_are_incomplete() -> None:
    with pytest.raises(KeyError, match="lokr_w1"):
        Lokr().layer_of({W2: (4, 4)}, ())
    with pytest.raises(KeyError, match="lokr_w2_b"):
        Lokr().layer_of({W1: (4, 4), W2_A: (4, 4)}, ())


def test_it_starts_as_lycoris_does() -> None:
    model = nn.Sequential(nn.Linear(1280, 320))
    for options, zero in ((4, W2_B), (20, W2)):
        adapter = attached_to_all(model, kind="lokr", rank=options)
        for name, tensor in adapter.tensors().items():
            is_zero = name.endswith(zero)
            bound = 0 if is_zero else tensor.shape[1] ** -0.5
            assert float(tensor.abs().max()) == pytest.approx(bound, rel=0.1), name
        model[0] = model[0].base


def test_the_arguments_are_those_that_lycoris_takes() -> None:
    assert Lokr().network_args == {"algo": "lokr", "factor": "-1"}
    arguments = {"algo": "lokr", "factor": "8", "decompose_both": "True", "full_matrix": "True"}
    assert Lokr(8, decompose_both=True, full_matrix=True).network_args == arguments
