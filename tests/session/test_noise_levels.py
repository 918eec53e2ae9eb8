from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorasmith.data.types import Example, Offset, Size
from lorasmith.diffusion.densities import LogitNormal
from lorasmith.diffusion.flow import FlowMatching, ShiftByTokens
from lorasmith.session.noise_levels import BINS, level_shares

TOKEN, FACTOR = 16, 8  # pixels: of a token, of an element of the latents
PROCESS = FlowMatching(LogitNormal(), ShiftByTokens(fewest=256, most=6400, least=0.5, greatest=1.15))
WIDE, TALL = Size(512, 256), Size(256, 2048)


def example(size: Size, repeats: int) -> Example:
    return Example(Path("a"), "", repeats, size, size, size, Offset(0, 0), "", "")


@pytest.mark.parametrize("process", [PROCESS, PROCESS.between(300, 900), replace(PROCESS, dtype=torch.bfloat16)])
def test_the_plot_is_what_training_draws(process: FlowMatching) -> None:
    """Levels drawn for the latents of the pictures themselves, each as often as it is repeated."""
    found = level_shares(process, [example(WIDE, 3), example(TALL, 1)], TOKEN)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat(
        [
            process.timesteps(
                torch.rand(40_000 * repeats, generator=generator),
                (1, 16, size.height // FACTOR, size.width // FACTOR),
            )
            for size, repeats in ((WIDE, 3), (TALL, 1))
        ]
    )
    counted = torch.histc(drawn, BINS, min=0, max=1) / len(drawn)
    assert sum(found) == pytest.approx(1)
    assert torch.tensor(found).allclose(counted, atol=6e-3)


def test_a_process_with_timesteps_has_no_levels() -> None:
    assert level_shares(object(), [example(WIDE, 1)], TOKEN) == ()
