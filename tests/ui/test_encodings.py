"""Every command on streams of encodings that have no Chinese characters, or not all signs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorasmith.ui import cli
from lorasmith.ui.encodings import make_streams_lenient, shows_everything, translator_for
from lorasmith.ui.translator import Translator
from tests.reading.made_runs import finished_run

Read = Callable[[], tuple[str, str]]
Streams = Callable[[str, str], Read]


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """Puts streams of two encodings in place; what they got since, decoded, is read by what this returns."""

    def put(out: str, err: str) -> Read:
        files = {}
        for name, encoding in (("stdout", out), ("stderr", err)):
            files[name] = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
            monkeypatch.setattr(sys, name, files[name])

        def read() -> tuple[str, str]:
            found = []
            for file in files.values():
                file.flush()
                found.append(file.buffer.getvalue().decode(file.encoding))
            return found[0], found[1]

        return read

    return put


@pytest.mark.parametrize(
    ("out", "err", "lacks"),
    [
        ("utf-8", "utf-8", ""),
        ("utf-8-sig", "utf-16", ""),
        ("cp950", "big5", ""),
        ("ascii", "utf-8", "ascii"),
        ("utf-8", "cp1252", "cp1252"),
        ("cp932", "cp932", "cp932"),  # has some of the characters
    ],
)
def test_english_where_a_stream_lacks_the_characters(streams: Streams, out: str, err: str, lacks: str) -> None:
    read = streams(out, err)
    words = translator_for("zh-TW")
    assert words == (Translator("en", asked="zh-TW") if lacks else Translator("zh-TW"))
    assert words.in_files == Translator("zh-TW")
    text = read()[1]
    assert text.count("\n") == bool(lacks)
    assert not lacks or all(one in text for one in (lacks, "PYTHONUTF8=1", "chcp 65001"))


def test_english_is_shown_by_every_stream(streams: Streams) -> None:
    read = streams("ascii", "ascii")
    assert translator_for("en") == Translator("en")
    assert read() == ("", "")


COMMANDS = ["", "--help", "train --help", "plan --help", "logs --help", "logs", "report --help", "demo --help"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "typed", [*COMMANDS, "tensorboard --help", "tensorboard", "train --stepz 3", "train", "plan", "report", "nothing"]
)
def test_every_command(
    streams: Streams, encoding: str, typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORASMITH_LANG", "zh-TW")
    read = streams(encoding, encoding)
    cli.main(typed.split())
    out, err = read()
    assert err.splitlines()[0].startswith("Messages are in English")
    assert err.count("PYTHONUTF8") == 1
    told = out + err
    assert "??" not in told and "\\u" not in told
    assert out or len(err.splitlines()) > 1


def test_a_config_that_names_the_language(streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lorasmith.toml").write_text("lang = 'zh_TW'\n")
    Path("mine.toml").write_text("lang = 'zh-TW'\n")
    read = streams("ascii", "ascii")
    cli.main(["train", "--new", "--config", "mine.toml"])
    assert read()[1].count("Messages are in English") == 1


def test_reports_keep_the_language_that_was_chosen(
    streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = finished_run(tmp_path / "lora_output")
    read = streams("ascii", "ascii")
    assert cli.main(["report", "--lang", "zh-TW"]) == 0
    assert "\\u" not in "".join(read())
    newest = max(run.training_logs.glob("*.html"), key=lambda path: path.stat().st_mtime)
    assert "訓練" in newest.read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_is_whole_in_every_encoding(
    streams: Streams, encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "訓練…😀"
    finished_run(here / "lora_output")
    monkeypatch.chdir(here)
    read = streams(encoding, encoding)
    assert cli.main(["logs", "--json"]) == 0
    assert json.loads(read()[0])["folder"] == str(here / "lora_output")
    assert shows_everything(sys.stdout) is (encoding == "utf-8")


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "1 – 2 × 3 …", b"1 - 2 x 3 ..."),
        ("cp1252", "1 – 2 ✓", b"1 \x96 2 ok"),
        ("ascii", "訓\U0001f600", b"\\u8a13\\ud83d\\ude00"),
        ("ascii", "訓練".encode().decode("ascii", "surrogateescape") + "訓", "訓練".encode() + b"\\u8a13"),
        ("utf-8", "\udce8訓", b"\\udce8" + "訓".encode()),
        ("cp950", "\udce8\udca8\udc93", b"\\udce8\\udca8\\udc93"),
    ],
)
def test_what_stands_in_place_of_a_sign(streams: Streams, encoding: str, text: str, shown: bytes) -> None:
    streams(encoding, encoding)
    make_streams_lenient()
    sys.stdout.write(text)
    sys.stdout.flush()
    buffer: Any = sys.stdout.buffer
    assert buffer.getvalue() == shown
