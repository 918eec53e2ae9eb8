"""Positions in a batch of texts of unequal lengths. `test_family` compares the forward pass with diffusers'."""

import torch
from diffusers.models.transformers.transformer_qwenimage21 import QwenImage21Rope

from lorasmith.families.qwen_image21.denoiser import rotations


def test_positions_are_those_of_diffusers_for_each_text_alone() -> None:
    lengths, sides = (3, 7), (5, 4)
    mask = torch.arange(8)[None] < torch.tensor(lengths)[:, None]
    found = rotations(mask, sides, (4, 6, 6))[:, :, 0]
    for number, length in enumerate(lengths):
        is_picture = torch.arange(length + 20) >= length
        expected = QwenImage21Rope(10_000, [4, 6, 6])([(1, *sides)], is_picture, torch.device("cpu"))
        assert torch.allclose(torch.cat([found[number, :length], found[number, 8:]]), expected, atol=1e-6)
