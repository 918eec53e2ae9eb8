from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from lorasmith.messages import LANGUAGES
from lorasmith.reading.attempts import Ending
from lorasmith.reading.statistics import Trend
from lorasmith.reading.summary import RunSummary
from lorasmith.reports.html_sections import answer, head, losses, signs, tiles, trouble
from lorasmith.ui.translator import Translator
from tests.reports.page import parsed

USES = (
    "nothing_exported", "exports_gone", "not_evaluated", "trained_pictures",
    "best", "best_is_last", "not_distinguishable", "error_unknown",
)  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reason", USES)
def test_every_answer_has_words(summary: RunSummary, language: str, reason: str) -> None:
    words = Translator(language)
    for against in ("better", "worse", "undecided", "unknown"):
        use = replace(summary.use, reason=reason, against_baseline=against)
        text = parsed(answer(replace(summary, use=use), words)).text
        assert words.say(f"use.{reason}", step=150, last_step=300) in text


def test_the_answer_shows_both_losses_with_their_errors(summary: RunSummary) -> None:
    text = parsed(answer(summary, Translator("en"))).text
    assert "0.149 ± 0.013; at the last step 300: 0.158 ± 0.013; difference: 0.009 ± " in text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reason", ["reached", "asked", "failed", "died", "unknown"])
def test_every_ending_has_words(summary: RunSummary, language: str, reason: str) -> None:
    ended = replace(summary, ending=Ending(reason, status=-9), is_finished=False)
    text = parsed(head(ended, Translator(language), folder="x")).text
    assert Translator(language).say(f"ending.{reason}") in text
    assert ("-9" in text) is (reason == "died")


def test_an_error_of_another_version_is_shown_as_it_is(summary: RunSummary) -> None:
    failed = replace(summary, ending=Ending("failed", "of_the_future", {"x": 1}))
    assert trouble(failed, Translator("en")) == ["of_the_future x: 1"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sign_and_trend_has_words(summary: RunSummary, language: str) -> None:
    words = Translator(language)
    for verdict in ("seen", "within_error", "not_seen", "too_few", "trained_pictures", "not_evaluated"):
        changed = replace(summary, over_training=replace(summary.over_training, verdict=verdict))
        assert parsed(signs(changed, words)).text
    for verdict in ("copies", "none", "not_measured"):
        changed = replace(summary, memorisation=replace(summary.memorisation, verdict=verdict))
        assert words.say(f"memorisation.{verdict}") in parsed(signs(changed, words)).text
    for trend in get_args(Trend):
        changed = replace(summary, losses={**summary.losses, "total": replace(summary.losses["total"], trend=trend)})
        assert words.say(f"report.trend.{trend}") in parsed(tiles(changed, words)).text


def test_the_table_of_losses(summary: RunSummary) -> None:
    text = parsed(losses(summary, Translator("en"))).text
    assert "Visual 0.472 0.345 0.345 (step 300) 0.404 0.600 57 % falling" in text
    assert "Validation 0.160 0.158 0.149 (step 150)" in text
