import os
import sys
from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families import small_files
from lorasmith.families.small_files import check_tokenizer, read_json


def test_a_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "é"}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": "é"}


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_anything_else_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ModelError, match="model_damaged"):
        read_json(tmp_path / "a.json")


def test_a_giant_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "MAX_JSON_BYTES", 10)
    monkeypatch.setattr(small_files, "MAX_TOKENIZER_BYTES", 10)
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    check_tokenizer(tmp_path)
    (tmp_path / "a.json").write_text('{"a": 100000}')
    for read, path in ((read_json, tmp_path / "a.json"), (check_tokenizer, tmp_path)):
        with pytest.raises(ModelError, match="model_damaged"):
            read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    for read, path in ((read_json, tmp_path / "a.json"), (check_tokenizer, tmp_path)):
        with pytest.raises(ModelError, match="model_irregular"):
            read(path)


def test_a_tokenizer_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").touch()
    with pytest.raises(ModelError, match="model_damaged"):
        check_tokenizer(tmp_path / "tokenizer")
