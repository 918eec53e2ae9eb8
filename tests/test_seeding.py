import hashlib
import os
import subprocess
import sys
from itertools import product

from lorasmith.seeding import fold


def test_a_seed_is_this_number_for_ever() -> None:
    # Written out: another number here is another LoRA from every seed.
    digest = hashlib.sha256(b"42\x00noise\x001\x000").digest()
    assert fold(42, "noise", 1, 0) == int.from_bytes(digest[:8], "big") // 2 == 4163106107275706742


def test_every_part_counts_and_so_does_where_it_ends() -> None:
    names = list(product([0, 1, 11, 42, 2**63 - 1], ["noise", "timestep", ""], range(30), range(3)))
    names += [(4, "2"), (42,), (42, ""), (42, "noise", 1), (42, "noise", 11), (42, "noise1", 1), (42, "noise1"), (421,)]
    seeds = {fold(*name) for name in names}
    assert len(seeds) == len(set(names))
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_bits_are_used_up_to_the_highest() -> None:
    seeds = [fold(7, "bits", number) for number in range(400)]
    ones = [sum(seed >> bit & 1 for seed in seeds) for bit in range(63)]
    assert all(140 < count < 260 for count in ones)


def test_it_is_the_same_in_every_process() -> None:
    program = (
        "from lorasmith.seeding import fold; import sys; print(fold(3, 'order', 9, 96, 64), 'torch' in sys.modules)"
    )
    for hash_seed in ("1", "2"):
        own = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."}  # beside what a Python may need to start
        done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **own}, capture_output=True)
        assert done.stdout.decode().split() == [str(fold(3, "order", 9, 96, 64)), "False"]
