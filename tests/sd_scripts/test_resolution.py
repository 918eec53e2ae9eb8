from __future__ import annotations

import pytest

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.resolution import resolution


@pytest.mark.parametrize("text", ["512", "512,512", "512, 512"])
def test_a_square_is_its_side(text: str) -> None:
    assert resolution(text, "--resolution") == 512


@pytest.mark.parametrize(
    ("text", "code"), [("1,2,3", "sd_resolution"), ("wide", "sd_resolution"), ("512,768", "sd_resolution_not_square")]
)
def test_other_texts_are_refused(text: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolution(text, "--resolution")
    assert caught.value.code == code
