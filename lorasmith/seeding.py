"""Seeds of all random numbers: a seed is a function of the run's seed and a name, never of earlier draws.

Independent of torch: the caller seeds its own generator.
"""

import hashlib


def fold(seed: int, *names: str | int) -> int:
    """A seed in [0, 2**63) for the stream called `names`; another name or number gives an unrelated one.

    SHA-256 of the parts joined by NUL bytes, so that ("a", 12) and ("a1", 2) differ.
    """
    text = "\0".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
