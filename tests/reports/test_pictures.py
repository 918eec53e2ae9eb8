from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from lorasmith.reports.pictures import SIDE, data_uri
from tests.reading.made_up import leaf


def test_a_picture_becomes_small_and_part_of_the_page(tmp_path: Path) -> None:
    leaf(1, side=900).save(tmp_path / "a.png")
    head, _, data = data_uri(tmp_path / "a.png").partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (SIDE, SIDE)


def test_what_is_gone_or_no_picture_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_text("no picture")
    assert [data_uri(path) for path in (tmp_path / "gone.png", tmp_path, tmp_path / "b.png")] == [""] * 3
