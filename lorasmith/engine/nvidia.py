"""Facts about NVIDIA's cards: which torch computes on them, which fail in fp16, their peaks."""

import re
from collections.abc import Iterable

# Dense products in half precision that add in float32, in a second, as NVIDIA's data sheets state them; by the end of
# the card's name.
PEAK_FLOPS = {
    "A100-PCIE-40GB": 312e12, "A100-SXM4-40GB": 312e12, "A100-SXM4-80GB": 312e12, "A100 80GB PCIe": 312e12,
    "B200": 2250e12, "H100 80GB HBM3": 989e12, "H100 PCIe": 756e12, "H200": 989e12, "L4": 121e12, "L40S": 362e12,
    "RTX 3090": 71e12, "RTX 4090": 165e12, "RTX A6000": 155e12,
}  # fmt: skip

# Convolutions in fp16 give NaN on these cards (pytorch/pytorch#77955). What avoids it, cuDNN's choice of kernels by
# timing, would give other bytes from run to run.
_WITHOUT_FP16 = re.compile(r"\bGTX 16\d\d\b")
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def peak_of(card: str) -> float:
    """The operations in a second that PEAK_FLOPS has for a card; 0 where it has none."""
    return next((peak for name, peak in PEAK_FLOPS.items() if card.endswith(f" {name}")), 0.0)


def has_usable_fp16(card: str) -> bool:
    """Whether fp16 gives numbers on the card of this name."""
    return _WITHOUT_FP16.search(card) is None


def has_kernels(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Whether a torch built for `architectures` (`sm_86`, `compute_90`) computes on a card of this capability: it has
    machine code for the same generation, or code that the driver translates. True where none is NVIDIA's."""
    known = [found.groups() for found in map(_ARCHITECTURE.fullmatch, architectures) if found]
    if not known:
        return True
    for kind, major, minor, only in known:
        built = (int(major), int(minor))
        if built == capability or (kind == "compute" and not only and built <= capability):
            return True
        if kind == "sm" and only != "a" and built[0] == capability[0] and built <= capability:
            return True
    return False
