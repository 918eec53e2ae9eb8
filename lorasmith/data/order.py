"""Chooses which examples are held out and which meet in which batch: functions of the seed and a position, in integers.

There is no cursor and no generator to carry along: any batch of any epoch can be computed at once. Knows nothing of
pictures; an example here is its bucket and its repeats, its id the index in the list.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from random import Random
from typing import Literal, NamedTuple, TypeVar

from lorasmith.data.types import Size
from lorasmith.errors import ConfigError
from lorasmith.seeding import fold

AUTO_FROM = 20  # `auto` holds out a twentieth of the distinct pictures

T = TypeVar("T")


def is_main_subject(repeats: Sequence[int]) -> list[bool]:
    """Marks the pictures of the main subject: those with at least half as many repeats as the most repeated picture.

    The others (regularisation pictures) preserve what the base model knows; measuring on them would not show what was
    learned."""
    most = max(repeats, default=0)
    return [2 * times >= most for times in repeats]


def split_held_out(pictures: Sequence[tuple[str, int]], hold_out: float | Literal["auto"], seed: int) -> frozenset[str]:
    """The SHA-256s of the pictures that are never trained on, out of (SHA-256, repeats). Equal pictures count once, and
    only pictures of the main subject are held out.

    They are chosen by a keyed hash of the bytes: neither names nor the order of the list matter.

    Raises:
        ConfigError: `hold_out_too_many`, nothing would be left to train on.
    """
    repeats: dict[str, int] = {}
    for sha, times in pictures:
        repeats[sha] = max(times, repeats.get(sha, 0))
    main = [sha for sha, is_main in zip(repeats, is_main_subject(list(repeats.values())), strict=True) if is_main]
    if hold_out == "auto":
        wanted = len(main) // AUTO_FROM
    else:
        wanted = round(len(main) * hold_out) if 0 < hold_out < 1 else int(hold_out)
    if wanted and wanted >= len(main):
        raise ConfigError("hold_out_too_many", hold_out=wanted, pictures=len(main))
    by_hash = sorted(main, key=lambda sha: (fold(seed, "hold-out", sha), sha))
    return frozenset(by_hash[:wanted])


class Pool(NamedTuple):
    """Examples that may meet in a batch where their buckets are the same."""

    group: int
    batch_size: int


def plan_epoch(
    examples: Sequence[tuple[Size, int]],
    batch_size: int,
    seed: int,
    epoch: int,
    pools: Sequence[Pool] = (),
) -> list[tuple[int, ...]]:
    """The batches of an epoch, in order: each example as often as it repeats, each batch from a single bucket.

    `examples` is (bucket, repeats) by id; `pools` is the pool of each where there are several, and then decides the
    batch size. A bucket's last batch may be smaller; the number of batches does not depend on seed and epoch.
    """
    by_bucket: dict[tuple[Pool, Size], list[int]] = defaultdict(list)
    only = [Pool(0, batch_size)] * len(examples)
    for number, ((bucket, repeats), pool) in enumerate(zip(examples, pools or only, strict=True)):
        by_bucket[pool, bucket] += [number] * repeats
    batches: list[tuple[int, ...]] = []
    for (pool, bucket), ids in sorted(by_bucket.items()):
        own = [pool.group] if pool.group else []  # the order of older runs stays
        ids, batch_size = _shuffled(ids, fold(seed, "order", epoch, *bucket, *own)), pool.batch_size
        batches += [tuple(ids[start : start + batch_size]) for start in range(0, len(ids), batch_size)]
    return _shuffled(batches, fold(seed, "order", epoch, "batches"))


class Order:
    """The endless sequence of batches, by position 0, 1, 2 …, counted in micro-batches."""

    def __init__(
        self, examples: Sequence[tuple[Size, int]], *, batch_size: int, seed: int, pools: Sequence[Pool] = ()
    ) -> None:
        assert any(repeats > 0 for _, repeats in examples), "nothing to train on"
        self._examples = tuple(examples)
        self._batch_size = batch_size
        self._pools = tuple(pools)
        self._seed = seed
        self._planned_epoch = 0
        self._plan = self._planned(0)
        self.batches_per_epoch = len(self._plan)

    def epoch_at(self, position: int, first_epoch: int) -> int:
        """The epoch of a position; position 0 is the first of `first_epoch`."""
        return first_epoch + position // self.batches_per_epoch

    def batch_at(self, position: int, first_epoch: int) -> tuple[int, tuple[int, ...]]:
        """(epoch, ids of the examples) of a position. When positions ascend, each epoch is planned once."""
        epochs, place = divmod(position, self.batches_per_epoch)
        epoch = first_epoch + epochs
        if epoch != self._planned_epoch:
            self._plan = self._planned(epoch)
            self._planned_epoch = epoch
        return epoch, self._plan[place]

    def _planned(self, epoch: int) -> list[tuple[int, ...]]:
        return plan_epoch(self._examples, self._batch_size, self._seed, epoch, self._pools)


def _shuffled(items: Iterable[T], seed: int) -> list[T]:
    """Shuffles by Fisher-Yates over `random()`, the only method whose sequence Python promises never to change."""
    row = list(items)
    draw = Random(seed).random
    for last in range(len(row) - 1, 0, -1):
        other = int(draw() * (last + 1))
        row[last], row[other] = row[other], row[last]
    return row
