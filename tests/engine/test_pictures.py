"""Pictures that vary become inputs: as cached, mirrored as encoded beforehand, or encoded live."""

from pathlib import Path

import torch

from lorasmith.config.sections import AugmentationConfig
from lorasmith.data.augmentation import Variant, mirrored
from lorasmith.data.types import Example, Inputs, Offset, Size, Use
from lorasmith.engine.pictures import VaryingPictures

SIDE = Size(64, 64)


def test_only_what_was_not_encoded_beforehand_is_encoded_live() -> None:
    encoded: list[Variant] = []

    def live(variant: Variant) -> Inputs:
        encoded.append(variant)
        return {"live": torch.zeros(1)}

    example = Example(Path("a"), "", 1, Size(64, 90), Size(64, 90), SIDE, Offset(0, 13), "", "")
    settings = [AugmentationConfig(**changes) for changes in ({}, {"flip": True}, {"flip": True, "random_crop": True})]
    known: dict[Example, Inputs] = {mirrored(example): {"known": torch.zeros(1)}}
    pictures = VaryingPictures((example,) * 3, settings, 1, known, live)
    found = [[list(pictures(Use(number, 1, step, 0, 0))) for step in range(1, 100)] for number in range(3)]
    assert all(inputs == [] for inputs in found[0])
    assert {tuple(inputs) for inputs in found[1]} == {(), ("known",)}
    assert {tuple(inputs) for inputs in found[2]} == {(), ("known",), ("live",)}
    assert len(encoded) > 80 and all(variant.example.crop != (0, 13) for variant in encoded)
