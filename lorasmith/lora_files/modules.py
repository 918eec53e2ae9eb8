"""A layer's tensors in a LoRA file: which kind of change they make, and of which rank, by their shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lorasmith.families.headers import TensorInfo
from lorasmith.lora_files.fitting import fits
from lorasmith.lora_files.keys import ALPHA, DORA, DOWN, MID, UP

LOW_RANK = frozenset({"lora", "locon", "tucker"})
"""Kinds whose change is the product of a pair of matrices."""

KINDS = frozenset(
    {"lora", "locon", "tucker", "loha", "lokr", "dora", "full", "vector", "bias", "norm", "glora", "ia3", "oft"}
)
"""The kinds that files are known to have; `dora` stands for every kind with magnitudes, `full` for the difference of a
weight, `vector` for that of a weight of one dimension, as norms have, and `bias` for that of a bias alone."""

_REQUIRED = {  # kind -> suffixes that it needs: the first kind that has all of them counts
    "tucker": {DOWN, UP, MID},
    "lora": {DOWN, UP},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "full": {"diff"},
    "bias": {"diff_b"},
    "norm": {"w_norm"},
    "glora": {"a1.weight", "a2.weight", "b1.weight", "b2.weight"},
    "ia3": {"weight", "on_input"},
    "oft": {"oft_blocks"},
    "oft_diag": {"oft_diag"},
    "oft_peft": {"oft_R.weight"},
}
_OFT = {"oft_diag": "oft", "oft_peft": "oft"}


@dataclass(frozen=True, slots=True)
class Module:
    """A layer of a file."""

    name: str  # the beginning of its keys
    naming: str
    component: str
    path: str  # in its component, with "_" for "."
    tensors: Mapping[str, TensorInfo]  # by suffix
    keys: Mapping[str, str]  # suffix -> key
    alpha: float | None  # None: the file has none

    @property
    def kind(self) -> str:
        """A key of KINDS but `dora`, or "" if tensors are missing, unknown, or do not fit each other."""
        suffixes = self.tensors.keys()
        has_both = {"lokr_w1", "lokr_w1_a"} & suffixes and {"lokr_w2", "lokr_w2_a"} & suffixes
        kind = "lokr" if has_both else next((kind for kind, needed in _REQUIRED.items() if needed <= suffixes), "")
        if kind == "lora" and math.prod(self.tensors[DOWN].shape[2:]) > 1:
            kind = "locon"
        if kind == "full" and len(self.tensors["diff"].shape) == 1:
            kind = "vector"
        if not fits(kind, {suffix: info.shape for suffix, info in self.tensors.items()}):
            return ""
        return _OFT.get(kind, kind)

    @property
    def has_dora(self) -> bool:
        return DORA in self.tensors

    @property
    def differences(self) -> tuple[str, ...]:
        """The kinds of differences that are stored whole: of its weight (`full` or `vector`), and of its `bias`, which
        may stand beside a pair of matrices."""
        of_weight = "vector" if "diff" in self.tensors and len(self.tensors["diff"].shape) == 1 else "full"
        found = ((of_weight, "diff"), ("bias", "diff_b"))
        return tuple(kind for kind, suffix in found if suffix in self.tensors)

    @property
    def rank(self) -> int | None:
        """The rank that alpha is divided by; None where the kind has none."""
        for suffix, axis in (
            (DOWN, 0),
            ("hada_w1_b", 0),
            ("lokr_w2_b", 0),
            ("lokr_w1_b", 0),
            ("oft_blocks", 1),
            ("oft_diag", 1),
        ):
            info = self.tensors.get(suffix)
            if info is not None and len(info.shape) > axis:
                return info.shape[axis]
        return None

    @property
    def scale(self) -> float:
        """The factor of the change that readers take from alpha and rank."""
        if (
            self.alpha is None
            or not self.rank
            or self.kind in ("full", "vector", "bias", "norm", "glora", "ia3", "oft")
        ):
            return 1.0
        return self.alpha / self.rank

    @property
    def layer_shape(self) -> tuple[int, int] | None:
        """(outputs, inputs) of the layer that the matrices are for, as far as their shapes tell."""
        if UP in self.tensors and DOWN in self.tensors:
            up, down = self.tensors[UP].shape, self.tensors[DOWN].shape
        elif "hada_w1_a" in self.tensors and "hada_w1_b" in self.tensors and "hada_t1" not in self.tensors:
            up, down = self.tensors["hada_w1_a"].shape, self.tensors["hada_w1_b"].shape
        elif self.kind == "lokr" and "lokr_t2" not in self.tensors:
            sides = [_sides({name: info.shape for name, info in self.tensors.items()}, f"lokr_w{n}") for n in (1, 2)]
            return math.prod(outputs for outputs, _ in sides), math.prod(inputs for _, inputs in sides)
        elif "diff" in self.tensors:
            up = down = self.tensors["diff"].shape
        else:
            return None
        return (up[0], down[1]) if len(up) > 1 and len(down) > 1 else None

    @property
    def counted_suffixes(self) -> frozenset[str]:
        return frozenset(self.tensors) - {ALPHA}


def _sides(shapes: Mapping[str, tuple[int, ...]], factor: str) -> tuple[int, int]:
    """The rows and columns of a factor of a Kronecker product, which may be a product of two matrices."""
    whole = shapes.get(factor)
    return (whole[0], whole[1]) if whole else (shapes[f"{factor}_a"][0], shapes[f"{factor}_b"][1])
