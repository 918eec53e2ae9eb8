from collections import Counter
from collections.abc import Sequence

import pytest

from lorasmith.data.order import Order, plan_epoch, split_held_out
from lorasmith.data.types import Size
from lorasmith.errors import ConfigError

WIDE, TALL = Size(96, 64), Size(64, 96)
SEVEN = [(WIDE, 1), (TALL, 3), (WIDE, 2), (WIDE, 1), (TALL, 1), (WIDE, 5), (TALL, 2)]  # 7 pictures, repeats, 2 buckets
SHAS = [f"{number:064x}" for number in range(100)]


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("seed", [0, 42])
def test_every_epoch_has_each_example_as_often_as_it_repeats(batch_size: int, seed: int) -> None:
    lengths = set()
    for epoch in range(20):
        plan = plan_epoch(SEVEN, batch_size, seed, epoch)
        lengths.add(len(plan))
        seen = Counter(number for batch in plan for number in batch)
        assert seen == Counter({number: repeats for number, (_, repeats) in enumerate(SEVEN)})
        assert all(len({SEVEN[number][0] for number in batch}) == 1 for batch in plan)
        sizes = Counter(len(batch) for batch in plan)
        assert max(sizes) <= batch_size
        assert sum(count for size, count in sizes.items() if size < batch_size) <= 2  # one short batch a bucket
    assert lengths == {-(-9 // batch_size) + -(-6 // batch_size)}


def test_epochs_and_seeds_differ_and_come_back() -> None:
    plans = {(seed, epoch): tuple(plan_epoch(SEVEN, 2, seed, epoch)) for seed in range(3) for epoch in range(10)}
    assert len(set(plans.values())) == len(plans)
    assert all(tuple(plan_epoch(SEVEN, 2, *name)) == plan for name, plan in plans.items())


def test_the_order_is_the_same_on_every_machine_and_version() -> None:
    assert plan_epoch(SEVEN, 3, 42, 0) == [(1, 6, 4), (5, 5, 5), (1, 6, 1), (2, 5, 0), (2, 3, 5)]


def test_shuffling_is_fair() -> None:
    examples = [(WIDE, 1)] * 5
    first = Counter(plan_epoch(examples, 1, 7, epoch)[0][0] for epoch in range(5000))
    assert all(850 < first[number] < 1150 for number in range(5))
    pairs = Counter(plan_epoch(examples, 2, 7, epoch)[0] for epoch in range(5000))
    assert len(pairs) >= 20


def test_any_position_at_once_or_in_order() -> None:
    order = Order(SEVEN, batch_size=2, seed=42)
    assert order.batches_per_epoch == 5 + 3
    straight = [order.batch_at(position, 0) for position in range(40)]
    assert [epoch for epoch, _ in straight] == [position // 8 for position in range(40)]
    for epoch in range(5):
        assert [batch for _, batch in straight[epoch * 8 : epoch * 8 + 8]] == plan_epoch(SEVEN, 2, 42, epoch)
    again = Order(SEVEN, batch_size=2, seed=42)
    for position in (39, 0, 17, 16, 8, 7, 38):
        assert again.batch_at(position, 0) == straight[position]
        assert again.epoch_at(position, 0) == straight[position][0]


def test_the_first_epoch_is_where_the_dataset_began() -> None:
    order = Order(SEVEN, batch_size=2, seed=42)
    assert order.batch_at(0, 3) == (3, plan_epoch(SEVEN, 2, 42, 3)[0])
    assert order.batch_at(9, 3) == (4, plan_epoch(SEVEN, 2, 42, 4)[1])
    assert order.epoch_at(9, 3) == 4


def test_exact_steps_see_each_picture_the_promised_number_of_times() -> None:
    """100 pictures, 500 steps, batch 1: each is trained 5 times."""
    order = Order([(WIDE, 1)] * 60 + [(TALL, 1)] * 40, batch_size=1, seed=1)
    seen = Counter(order.batch_at(position, 0)[1][0] for position in range(500))
    assert set(seen.values()) == {5}
    assert len(seen) == 100


# -- held out --------------------------------------------------------------------------------------


def once(shas: Sequence[str]) -> list[tuple[str, int]]:
    return [(sha, 1) for sha in shas]


def test_equal_pictures_fall_on_one_side_and_names_do_not_matter() -> None:
    held = split_held_out(once(SHAS + SHAS[:50]), 10, seed=42)
    assert len(held) == 10
    assert held == split_held_out(once(list(reversed(SHAS))), 10, seed=42)
    assert held < set(SHAS)


@pytest.mark.parametrize(("pictures", "held"), [(0, 0), (1, 0), (19, 0), (20, 1), (39, 1), (40, 2), (100, 5)])
def test_auto_is_one_in_twenty_from_twenty_on(pictures: int, held: int) -> None:
    assert len(split_held_out(once(SHAS[:pictures]), "auto", 42)) == held
    assert len(split_held_out(once(SHAS[:pictures] * 3), "auto", 42)) == held  # distinct ones count


def test_only_what_is_taught_is_held_out() -> None:
    taught, known = SHAS[:40], SHAS[40:]
    mixed = [(sha, 10) for sha in taught] + [(sha, 4) for sha in known]
    assert split_held_out(mixed, 8, 42) == split_held_out(once(taught), 8, 42) <= set(taught)
    assert len(split_held_out(mixed, "auto", 42)) == 2
    half = [(sha, 10) for sha in taught] + [(sha, 5) for sha in known]
    assert split_held_out(half, 8, 42) == split_held_out(once(SHAS), 8, 42)
    with pytest.raises(ConfigError):  # something else would be left, and nothing of what is taught
        split_held_out(mixed, 40, 42)


def test_more_held_out_keeps_those_that_were() -> None:
    assert split_held_out(once(SHAS), 4, 42) < split_held_out(once(SHAS), 8, 42)
    assert split_held_out(once(SHAS), 4, 42) != split_held_out(once(SHAS), 4, 43)
    assert split_held_out(once(SHAS), 0, 42) == frozenset()


@pytest.mark.parametrize(("pictures", "hold_out"), [(5, 5), (5, 6), (1, 1), (0, 1)])
def test_holding_out_everything_is_refused(pictures: int, hold_out: int) -> None:
    with pytest.raises(ConfigError) as caught:
        split_held_out(once(SHAS[:pictures] * 2), hold_out, 42)
    assert caught.value.code == "hold_out_too_many"
    assert caught.value.fields == {"hold_out": hold_out, "pictures": pictures}
