from pathlib import Path

import pytest

from lorasmith.config import RunConfig
from lorasmith.errors import ConfigError
from lorasmith.runtime.thumbnail import SPEC, with_thumbnail


def test_a_thumbnail_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(b"\x89PNG")
    read = with_thumbnail({SPEC: {"author": "Ann", "thumbnail": "small.png"}}, tmp_path)
    assert read == {SPEC: {"author": "Ann", "thumbnail": "data:image/png;base64,iVBORw=="}}
    assert with_thumbnail(read, tmp_path) == read
    assert RunConfig().with_values(read).export.model_spec["author"] == "Ann"


@pytest.mark.parametrize("name", ["missing.png", "notes.txt", "large.png", "."])
def test_a_thumbnail_that_is_no_small_picture_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_bytes(b"x")
    (tmp_path / "large.png").write_bytes(bytes(200_000))
    with pytest.raises(ConfigError) as caught:
        with_thumbnail({SPEC: {"thumbnail": name}}, tmp_path)
    assert caught.value.code == "thumbnail_unusable"
