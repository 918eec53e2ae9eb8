"""Tensors that fit each other, and every way in which they do not."""

import pytest

from lorasmith.lora_files.fitting import MAX_RANK, Shapes, fits

PAIR = {"lora_down.weight": (2, 8), "lora_up.weight": (6, 2)}
HADA = {"hada_w1_a": (6, 2), "hada_w1_b": (2, 8), "hada_w2_a": (6, 3), "hada_w2_b": (3, 8)}
CORES = {
    **{"hada_w1_a": (2, 6), "hada_w1_b": (2, 8), "hada_w2_a": (2, 6), "hada_w2_b": (2, 8)},
    **{"hada_t1": (2, 2, 3, 3), "hada_t2": (2, 2, 3, 3)},
}
TUCKER = {"lora_down.weight": (2, 8, 1, 1), "lora_up.weight": (6, 2, 1, 1), "lora_mid.weight": (2, 2, 3, 3)}
LOKR = {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 2), "lokr_w2_a": (3, 2), "lokr_w2_b": (2, 4)}
GOOD: list[tuple[str, Shapes]] = [
    ("lora", PAIR),
    ("lora", {**PAIR, "alpha": ()}),
    ("lora", {**PAIR, "lora_down.weight": (2, 8, 1, 1)}),
    ("locon", {"lora_down.weight": (2, 8, 3, 3), "lora_up.weight": (6, 2, 1, 1)}),
    ("tucker", TUCKER),
    ("loha", HADA),
    ("loha", CORES),
    ("lokr", LOKR),
    ("lokr", {"lokr_w1": (2, 2), "lokr_w2": (3, 4, 3, 3), "scalar": (1,)}),
    ("lokr", {"lokr_w1": (2, 2), "lokr_w2_a": (2, 3), "lokr_w2_b": (2, 4), "lokr_t2": (2, 2, 3, 3)}),
    ("full", {"diff": (6, 8)}),
    ("norm", {"w_norm": (6,)}),
    ("glora", {"a1.weight": (1, 2, 3, 4, 5)}),
]
BAD: list[tuple[str, Shapes]] = [
    ("lora", {**PAIR, "lora_up.weight": (6, 3)}),
    ("lora", {**PAIR, "lora_up.weight": (6, 2, 3, 3)}),
    ("lora", {**PAIR, "lora_down.weight": (2,)}),
    ("lora", {**PAIR, "lora_down.weight": ()}),
    ("lora", {"lora_down.weight": (0, 8), "lora_up.weight": (6, 0)}),
    ("lora", {**PAIR, "alpha": (2,)}),
    ("lora", {**PAIR, "scalar": (2, 2)}),
    ("tucker", {**TUCKER, "lora_mid.weight": (2, 3, 3, 3)}),
    ("tucker", {**TUCKER, "lora_mid.weight": (2, 2)}),
    ("loha", {**HADA, "hada_w2_b": (3, 9)}),
    ("loha", {**HADA, "hada_w1_a": (6, 2, 1)}),
    ("loha", {**HADA, "hada_w1_a": (6, 5)}),
    ("loha", {**CORES, "hada_t1": (2, 2, 1, 1)}),
    ("loha", {**CORES, "hada_t1": (3, 2, 3, 3)}),
    ("lokr", {**LOKR, "lokr_w1_b": (2, 2)}),
    ("lokr", {"lokr_w1_a": (2, 1), "lokr_w2": (3, 4)}),
    ("lokr", {"lokr_w1": (2, 2), "lokr_w2_a": (3, 2)}),
    ("lokr", {"lokr_w1": (2, 2, 2), "lokr_w2": (3, 4)}),
    ("lokr", {**LOKR, "lokr_t2": (2, 2, 3, 3)}),
    ("lora", {"lora_down.weight": (MAX_RANK + 1, 1), "lora_up.weight": (1, MAX_RANK + 1)}),
    ("lora", {"lora_down.weight": (1, 2**15), "lora_up.weight": (2**15, 1)}),
    ("loha", {f"hada_w{n}_{end}": (2**15, 1) if end == "a" else (1, 2**15) for n in (1, 2) for end in "ab"}),
    ("lokr", {"lokr_w1": (2**8, 2**8), "lokr_w2": (2**8, 2**8)}),
    ("full", {"diff": (6,)}),
    ("norm", {"w_norm": (6, 1)}),
]


@pytest.mark.parametrize(("kind", "shapes"), GOOD)
def test_they_fit(kind: str, shapes: Shapes) -> None:
    assert fits(kind, shapes)


@pytest.mark.parametrize(("kind", "shapes"), BAD)
def test_they_do_not_fit(kind: str, shapes: Shapes) -> None:
    assert not fits(kind, shapes)
