from __future__ import annotations

from collections.abc import Iterator

import pytest

from lorasmith.messages import LANGUAGES
from lorasmith.ui.logs_menu import menu
from lorasmith.ui.translator import Translator


def chosen(monkeypatch: pytest.MonkeyPatch, *answers: str | type[BaseException], language: str = "en") -> list[str]:
    """What was called, in order, while these answers were typed."""
    done: list[str] = []
    left: Iterator[str | type[BaseException]] = iter(answers)

    def ask(_prompt: str) -> str:
        answer = next(left)
        if isinstance(answer, str):
            return answer
        raise answer

    monkeypatch.setattr("builtins.input", ask)
    menu(Translator(language), show=lambda: done.append("summary"), tensorboard=lambda: done.append("tensorboard"))
    assert list(left) == []  # it did not leave before the last answer
    return done


def test_the_summary_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, "3") == ["summary"]


def test_each_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, "1", " 2 ", "１", "3") == ["summary", "tensorboard", "summary", "tensorboard"]


@pytest.mark.parametrize("leaving", ["", "3", "q", EOFError, KeyboardInterrupt])
def test_ways_to_leave(monkeypatch: pytest.MonkeyPatch, leaving: str | type[BaseException]) -> None:
    assert chosen(monkeypatch, leaving) == ["summary"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_no_choice_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, language: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen(monkeypatch, "4", "TensorBoard", "3", language=language) == ["summary"]
    text = capsys.readouterr().out
    assert "`4`" in text and text.count("  1. ") == 3
