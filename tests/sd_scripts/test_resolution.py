from __future__ import annotations

import pytest

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.resolution import resolution


@pytest.mark.parametrize("text", ["512", "512,512", "512, 512"])
def test_a_square_is_its_side(text: str) -> None:
    assert resolution(text, "--resolution") == 512


def test_other_shapes_are_width_and_height() -> None:
    assert resolution("512,768", "--resolution") == [512, 768]


@pytest.mark.parametrize("text", ["1,2,3", "wide", ""])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="sd_resolution"):
        resolution(text, "--resolution")
