from pathlib import Path

import pytest

from lorasmith.data.captions import cleaned, read_text, with_trigger
from lorasmith.data.files import BadFileError

DECODED = {
    "utf-8": ("a café".encode(), "a café"),
    "utf-8 with mark": (b"\xef\xbb\xbfa cat", "a cat"),
    "utf-16 little": ("\ufeff一隻貓".encode("utf-16-le"), "一隻貓"),
    "utf-16 big": ("\ufeff一隻貓".encode("utf-16-be"), "一隻貓"),
    "emoji, right to left": ("🐈 חתול".encode(), "🐈 חתול"),
    "crlf": (b"a cat\r\n", "a cat"),
    "old mac": (b"a cat\rand more\r", "a cat"),
    "first line": (b"a cat\nnot this\n", "a cat"),
    "first line that is not blank": (b"\n  \r\n a cat \n", "a cat"),
    "empty": (b"", ""),
    "only a mark": (b"\xef\xbb\xbf", ""),
    "only spaces": (b"  \n\t\n", ""),
    "control characters": (b"a\tcat\x1b[31m  red", "a cat [31m red"),
    "lora and wildcard syntax": (b"<lora:x:1>, {a|b}, __c__", "<lora:x:1>, {a|b}, __c__"),
    "100,000 tags": (b"a tag, " * 100_000, ("a tag, " * 100_000).strip()),
}

REFUSED = {
    "cp1252": ("a café".encode("cp1252"), "caption_encoding", 5),
    "shift-jis": ("猫".encode("shift-jis"), "caption_encoding", 0),
    "big5": ("a 貓".encode("big5"), "caption_encoding", 2),
    "lone surrogate in utf-8": (b"ab\xed\xa0\x80", "caption_encoding", 2),
    "lone surrogate in utf-16": (b"\xff\xfea\x00\x00\xd8b\x00", "caption_encoding", 4),
    "half a character of utf-16": (b"\xff\xfea\x00b", "caption_encoding", 4),
    "behind a mark": (b"\xef\xbb\xbfab\xff", "caption_encoding", 5),
    "nul": (b"a\x00b", "caption_nul", 1),
    "nul behind two bytes": ("é\0".encode(), "caption_nul", 2),
    "utf-16 without mark": ("cat".encode("utf-16-le"), "caption_nul", 1),
    "utf-32": ("\ufeffcat".encode("utf-32-le"), "caption_nul", 2),
}


@pytest.mark.parametrize("what", DECODED)
def test_decoded(tmp_path: Path, what: str) -> None:
    data, caption = DECODED[what]
    (tmp_path / "a.txt").write_bytes(data)
    assert read_text(tmp_path / "a.txt").caption == caption


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_the_offset_of_the_byte(tmp_path: Path, what: str) -> None:
    data, reason, offset = REFUSED[what]
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(BadFileError) as caught:
        read_text(tmp_path / "a.txt")
    problem = caught.value.problem
    assert (problem.path, problem.reason, problem.fields["offset"]) == (tmp_path / "a.txt", reason, offset)


def test_a_caption_of_10_mb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"tag, " * 2_000_000)
    with pytest.raises(BadFileError) as caught:
        read_text(tmp_path / "a.txt")
    assert caught.value.problem.reason == "file_too_big"


def test_lines_that_are_not_used_are_known(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo", encoding="utf-8")
    (tmp_path / "b.txt").write_text("one\n\n", encoding="utf-8")
    assert read_text(tmp_path / "a.txt").has_more_lines
    assert not read_text(tmp_path / "b.txt").has_more_lines


@pytest.mark.parametrize(
    ("caption", "trigger", "whole"),
    [
        ("a cat", "sks", "sks, a cat"),
        ("a cat", "", "a cat"),
        ("a cat", " sks ", "sks, a cat"),
        ("", "sks", "sks"),
        ("", "", ""),
        ("sks, a cat", "sks", "sks, a cat"),
        ("Sks on grass", "sks", "Sks on grass"),
        ("sks", "sks", "sks"),
        ("sksdog, a cat", "sks", "sks, sksdog, a cat"),
        ("a cat, sks", "sks", "sks, a cat, sks"),
        ("sks_2, a cat", "sks", "sks, sks_2, a cat"),
    ],
)
def test_trigger_word(caption: str, trigger: str, whole: str) -> None:
    assert with_trigger(caption, trigger) == whole


def test_cleaned_keeps_words() -> None:
    assert cleaned("  sks\u00a0dog\x7f ") == "sks dog"
