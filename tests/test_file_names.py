"""Names that the locale cannot decode, as a process of that locale sees them."""

import sys

import pytest

from lorasmith.file_names import is_beyond_locale, is_text, limited_encoding, name_beyond_locale, readable

UNDECODED = "訓".encode().decode("ascii", "surrogateescape")


def in_locale(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: encoding)


@pytest.mark.parametrize(
    ("encoding", "name", "is_beyond"),
    [
        ("utf-8", "訓", False),
        ("utf-8", "caf\udce9", False),  # no text, but for no fault of the locale
        ("ascii", "plain", False),
        ("ascii", "訓", True),
        ("ascii", UNDECODED, True),
        ("iso8859-1", "é", False),
        ("iso8859-1", "訓", True),
        ("big5", "訓", False),
    ],
)
def test_what_the_locale_cannot_name(
    monkeypatch: pytest.MonkeyPatch, encoding: str, name: str, is_beyond: bool
) -> None:
    in_locale(monkeypatch, encoding)
    assert is_beyond_locale(name) is is_beyond
    assert limited_encoding() == ("" if encoding == "utf-8" else encoding)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("訓", "訓"),
        (UNDECODED, "訓"),
        ("a/" + UNDECODED + "/é", "a/訓/é"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
    ],
)
def test_names_are_shown_as_people_know_them(name: str, shown: str) -> None:
    assert readable(name) == shown
    assert is_text(name) is name.isprintable()


def test_the_error_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    in_locale(monkeypatch, "ascii")
    assert name_beyond_locale(UNDECODED).fields == {"name": "訓", "encoding": "ascii"}
