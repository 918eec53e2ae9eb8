import json
import os
import socket
import sys
from pathlib import Path

import pytest

from lorasmith.data.files import BadFileError, as_fields, read_whole
from lorasmith.data.types import Problem


def reason(path: Path, most: int = 100) -> str:
    with pytest.raises(BadFileError) as caught:
        read_whole(path, most=most)
    return caught.value.problem.reason


def test_a_regular_file_is_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    assert read_whole(tmp_path / "link", most=3) == b"abc"


def test_too_big_is_known_without_reading(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10 * 2**30)
    assert reason(tmp_path / "sparse", most=2**20) == "file_too_big"


@pytest.mark.skipif(sys.platform == "win32", reason="has none of these")
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "circle").symlink_to("circle")
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert {path.name: reason(path) for path in tmp_path.iterdir()} == {
            "pipe": "file_irregular",
            "zero": "file_irregular",
            "folder": "file_irregular",
            "socket": "file_irregular",
            "nowhere": "file_missing",
            "circle": "file_unreadable",
        }
    assert reason(tmp_path / "never") == "file_missing"


def test_problems_are_json_and_any_encoding_can_hold_them() -> None:
    name = os.fsdecode(b"caf\xe9.png") if sys.platform != "win32" else "caf\udce9.png"
    fields = as_fields([Problem(Path(name), "file_name", {})])
    assert json.loads(json.dumps(fields, ensure_ascii=False).encode("utf-8")) == [
        {"path": "caf\\xe9.png", "reason": "file_name", "fields": {}}
    ]


def test_the_error_of_one_file_is_an_error_of_the_dataset() -> None:
    error = BadFileError(Path("a.png"), "file_too_big", bytes=2, most=1)
    assert error.code == "dataset_problems"
    assert error.fields["count"] == 1
    assert error.fields["problems"] == [{"path": "a.png", "reason": "file_too_big", "fields": {"bytes": 2, "most": 1}}]
