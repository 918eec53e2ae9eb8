"""One order of adding, whatever the order of arriving."""

import random

import pytest
import torch

from lorasmith.engine.tree_sum import TreeSum


def _gradients(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(257, generator=generator) for _ in range(count)]


def _summed(gradients: list[torch.Tensor], order: list[int]) -> torch.Tensor:
    tree = TreeSum(len(gradients))
    for micro in order:
        tree.add(micro, gradients[micro].clone())
    return tree.total()


@pytest.mark.parametrize("count", range(1, 14))
def test_any_order_gives_the_same_bytes(count: int) -> None:
    gradients = _gradients(count)
    expected = _summed(gradients, list(range(count)))
    for seed in range(10):
        order = list(range(count))
        random.Random(seed).shuffle(order)
        assert torch.equal(_summed(gradients, order), expected)


def test_the_tree_is_the_one_described() -> None:
    a, b, c, d, e = _gradients(5)
    assert torch.equal(_summed([a, b, c, d, e], [0, 1, 2, 3, 4]), ((a + b) + (c + d)) + e)


def test_adding_from_left_to_right_is_another_sum() -> None:
    """Why a tree is needed: plain accumulation of these numbers ends in other bytes."""
    gradients = _gradients(8)
    assert not torch.equal(_summed(gradients, list(range(8))), sum(gradients[1:], gradients[0]))


def test_a_missing_micro_batch_is_noticed() -> None:
    tree = TreeSum(3)
    tree.add(0, torch.zeros(1))
    tree.add(2, torch.zeros(1))
    with pytest.raises(AssertionError):
        tree.total()


@pytest.mark.parametrize("count", range(1, 14))
@pytest.mark.parametrize("holders", [2, 3])
def test_trees_that_share_the_micro_batches_add_up_to_the_whole(count: int, holders: int) -> None:
    """However they are dealt out, and in whatever order the partial sums come."""
    gradients = _gradients(count)
    expected = _summed(gradients, list(range(count)))
    for seed in range(10):
        chance = random.Random(seed)
        trees = [TreeSum(count) for _ in range(holders)]
        for micro in range(count):
            chance.choice(trees).add(micro, gradients[micro].clone())
        chance.shuffle(trees)
        whole = TreeSum(count)
        for tree in trees:
            whole.add_partial(tree.partial())
        assert torch.equal(whole.total(), expected)
