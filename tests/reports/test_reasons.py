from __future__ import annotations

import pytest

from lorasmith.messages import LANGUAGES
from lorasmith.reports.reasons import why_empty, why_not


@pytest.mark.parametrize("language", LANGUAGES)
def test_reasons_have_words_and_unknown_ones_are_shown_as_they_are(language: str) -> None:
    assert "CLIP" in why_not(language, "no_clip_model")
    assert why_not(language, "code_of_the_future") == "code_of_the_future"
    assert why_empty(language, "not_evaluated") != "not_evaluated"
    assert why_empty(language, "no_clip_model") == why_not(language, "no_clip_model")
