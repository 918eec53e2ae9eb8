"""Captions that vary become inputs: what was encoded beforehand, or what is encoded live."""

import torch

from lorasmith.config import CaptionsConfig
from lorasmith.data.caption_variants import CaptionRules
from lorasmith.data.types import Inputs, Use
from lorasmith.engine.captions import VaryingCaptions


def test_each_example_has_its_own_text_and_rules() -> None:
    encoded: list[str] = []

    def live(caption: str) -> Inputs:
        encoded.append(caption)
        return {"live": torch.zeros(1)}

    plain, dropped, mixed = (
        CaptionRules(CaptionsConfig(**settings)) for settings in ({}, {"dropout": 1.0}, {"shuffle": True})
    )
    known: dict[str, Inputs] = {"a, b": {"known": torch.zeros(1)}, "": {}}
    captions = VaryingCaptions(("a, b", "a, b", "c, d"), (plain, dropped, mixed), 1, known, live)
    found = [captions(Use(example, 1, 3, 0, example)) for example in range(3)]
    assert [list(inputs) for inputs in found] == [["known"], [], ["live"]]
    assert encoded in (["c, d"], ["d, c"])
