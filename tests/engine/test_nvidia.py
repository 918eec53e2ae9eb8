"""Which cards a torch computes on, by the architectures that it was built for."""

import pytest

from lorasmith.engine.nvidia import has_kernels, has_usable_fp16

CU128 = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"
CU124 = "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90"


@pytest.mark.parametrize(
    ("architectures", "capability", "expected"),
    [
        (CU128, (8, 9), True),  # RTX 40: code for 8.6 runs on it
        (CU128, (12, 0), True),
        (CU128, (6, 1), False),  # GTX 10
        (CU124, (6, 1), True),
        (CU124, (12, 0), False),  # RTX 50
        (CU124, (10, 0), False),
        ("sm_86", (8, 0), False),  # code for a later card of the generation
        ("sm_90a", (9, 0), True),
        ("sm_100a", (10, 3), False),  # "a": for this card alone
        ("sm_80 compute_90", (12, 0), True),
        ("sm_80 compute_90", (7, 5), False),
        ("gfx1100", (11, 0), True),  # not of NVIDIA
        ("", (8, 6), True),
    ],
)
def test_code_for_a_card(architectures: str, capability: tuple[int, int], expected: bool) -> None:
    assert has_kernels(capability, architectures.split()) is expected


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("NVIDIA GeForce GTX 1650", False),
        ("NVIDIA GeForce GTX 1660 Ti", False),
        ("NVIDIA GeForce GTX 1080", True),
        ("NVIDIA GeForce RTX 2060", True),
    ],
)
def test_cards_that_compute_in_fp16(card: str, expected: bool) -> None:
    assert has_usable_fp16(card) is expected
