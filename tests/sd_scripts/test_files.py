from __future__ import annotations

from pathlib import Path

import pytest

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts import files
from lorasmith.sd_scripts.files import read_file

BOTH = ("toml", "json")


def test_toml_and_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("x = 1\n")
    (tmp_path / "b.JSON").write_text('\ufeff{"x": 1}', encoding="utf-8")
    assert [read_file(tmp_path / name, BOTH) for name in ("a.toml", "b.JSON")] == [{"x": 1}] * 2


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.yaml", b"", "sd_file_kind"),
        ("gone.json", None, "config_missing"),
        ("a.json", b"[1]", "sd_file_no_table"),
        ("a.json", b"{", "config_unreadable"),
        ("a.json", b"[" * 100_000, "config_unreadable"),
        ("a.json", b"\xff", "config_encoding"),
        ("a.toml", b"x = [", "config_unreadable"),
        ("a.toml", b"x" * 2000, "config_too_big"),
        ("a.json", b" " * 2000, "config_too_big"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes | None, code: str
) -> None:
    if code == "config_too_big":
        monkeypatch.setattr(files, "MAX_BYTES", 1000)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_file(tmp_path / name, BOTH)
    assert caught.value.code == code
