"""Kinds and ranks of layers by the shapes of their tensors."""

import pytest

from lorasmith.families.headers import TensorInfo
from lorasmith.lora_files.modules import Module


def module(shapes: dict[str, tuple[int, ...]], alpha: float | None = None) -> Module:
    tensors = {suffix: TensorInfo("F32", shape, 0, 0) for suffix, shape in shapes.items()}
    return Module("m", "kohya", "denoiser", "p", tensors, {suffix: f"m.{suffix}" for suffix in shapes}, alpha)


PAIR = {"lora_down.weight": (4, 8), "lora_up.weight": (6, 4)}
HADA = {"hada_w1_a": (6, 4), "hada_w1_b": (4, 8), "hada_w2_a": (6, 4), "hada_w2_b": (4, 8)}
KINDS: dict[str, tuple[dict[str, tuple[int, ...]], str, int | None]] = {
    "lora": (PAIR, "lora", 4),
    "1x1": ({"lora_down.weight": (4, 8, 1, 1), "lora_up.weight": (6, 4, 1, 1)}, "lora", 4),
    "3x3": ({"lora_down.weight": (4, 8, 3, 3), "lora_up.weight": (6, 4, 1, 1)}, "locon", 4),
    "tucker": ({**PAIR, "lora_mid.weight": (4, 4, 3, 3)}, "tucker", 4),
    "loha": (HADA, "loha", 4),
    "lokr": ({"lokr_w1": (2, 2), "lokr_w2_a": (3, 4), "lokr_w2_b": (4, 4)}, "lokr", 4),
    "full lokr": ({"lokr_w1": (2, 2), "lokr_w2": (3, 4)}, "lokr", None),
    "half lokr": ({"lokr_w1": (2, 2)}, "", None),
    "half": ({"lora_up.weight": (6, 4)}, "", None),
    "full": ({"diff": (6, 8)}, "full", None),
    "norm": ({"w_norm": (6,)}, "norm", None),
    "vector": ({"diff": (6,)}, "vector", None),
    "vector of nothing": ({"diff": (0,)}, "", None),
    "bias alone": ({"diff_b": (6,)}, "bias", None),
    "ranks that differ": ({**PAIR, "lora_up.weight": (6, 5)}, "", 4),
    "ia3": ({"weight": (6,), "on_input": ()}, "ia3", None),
    "oft": ({"oft_blocks": (3, 2, 2)}, "oft", 2),
    "glora": ({"a1.weight": (4, 8), "a2.weight": (8, 4), "b1.weight": (4, 8), "b2.weight": (6, 4)}, "glora", None),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind_and_rank(name: str) -> None:
    shapes, kind, rank = KINDS[name]
    assert (module(shapes).kind, module(shapes).rank) == (kind, rank)


def test_the_scale_is_alpha_by_rank_and_1_without_an_alpha() -> None:
    assert module(PAIR, 1.0).scale == 0.25
    assert module(PAIR).scale == 1.0
    assert module(KINDS["full lokr"][0], 100.0).scale == 1.0  # readers ignore the alpha of two full factors


def test_dora_is_a_mark_on_any_kind() -> None:
    assert module({**HADA, "dora_scale": (6, 1)}).has_dora and not module(HADA).has_dora


def test_the_size_of_the_layer() -> None:
    assert module(PAIR).layer_shape == module(HADA).layer_shape == (6, 8)
    assert module({"w_norm": (6,)}).layer_shape is None
