"""Settings of captions against the model that was found."""

import pytest

from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.recognize import recognize
from lorasmith.families.weights import TextSettings, check_clip_skip


def test_clip_skip_beyond_the_layers(miniature) -> None:
    weights = recognize(miniature.folder)
    check_clip_skip(weights, 2)
    with pytest.raises(ModelError, match="model_clip_skip"):
        check_clip_skip(weights, 3)
    with pytest.raises(ModelError, match="model_clip_skip"):
        load_family(weights, TextSettings(clip_skip=3))


def test_usual_settings_leave_cache_keys_as_they_were() -> None:
    assert TextSettings().identity() == {"clip_skip": 1}
    assert TextSettings(clip_skip=2, max_tokens=30).identity() == {"clip_skip": 2, "max_tokens": 30}
