"""(Pictures made to be costly: tests/abuse.)"""

import io
import time

import pytest
from PIL import Image

from lorasmith.data import picture_parts
from lorasmith.data.picture_parts import too_costly
from tests.data.drawing import drawn


def encoded(kind: str, **options: object) -> bytes:
    held = io.BytesIO()
    drawn(200, 100).save(held, kind, **options)
    return held.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 1}, {"restart_marker_blocks": 1}, {"optimize": True}]
)
def test_a_jpeg_is_a_picture(options: dict[str, object]) -> None:
    assert too_costly(encoded("JPEG", **options)) is None


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000"])
def test_so_are_others(kind: str) -> None:
    assert too_costly(encoded(kind)) is None


def test_the_flattest_jpeg_there_can_be_is_one() -> None:
    held = io.BytesIO()
    Image.new("L", (8000, 8000)).save(held, "JPEG", quality=1, progressive=True, optimize=True)
    assert too_costly(held.getvalue()) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0", b"\xff\xd8\xff\xda\0", b"\x89PNG\r\n\x1a\n\0"]
    + [b"GIF89a", b"GIF89a" + bytes(4) + b"\xf7", b"GIF89a" + bytes(7) + b"!", b"GIF89a" + bytes(7) + b"!\xfe\xff"]
    + [b"\0\0\0\x0cjP  \r\n\x87\n" + more for more in (b"", b"\0\0\0\x01free", b"\0\0\0\0jp2c", b"\xff" * 8)],
)
def test_what_is_cut_off_is_another_s_to_say(data: bytes) -> None:
    assert too_costly(data) is None


def test_scans_of_the_first_picture_alone_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phones append a film, in which anything may stand."""
    data = encoded("JPEG", progressive=True)
    monkeypatch.setattr(picture_parts, "MAX_SCANS", data.count(b"\xff\xda"))
    assert too_costly(data + b"\xff\xda\0\0" * 1000) is None
    monkeypatch.setattr(picture_parts, "MAX_SCANS", data.count(b"\xff\xda") - 1)
    found = too_costly(data)
    assert found is not None and found[0] == "picture_too_many_parts"


def test_what_stands_in_a_comment_is_no_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_parts, "MAX_SCANS", 20)
    assert too_costly(encoded("JPEG", comment=b"\xff\xda" * 1000)) is None


def test_a_marker_counts_wherever_fill_bytes_stand() -> None:
    """Behind a segment that ends in one, and before any other: the frame that promises too much is found."""
    whole = encoded("JPEG", comment=b"\xff\xff")
    at = whole.index(b"\xff\xc0")
    promising = whole[:at] + b"\xff\xff" + whole[at : at + 5] + b"\xff\xff\xff\xff" + whole[at + 9 :]
    found = too_costly(promising)
    assert found is not None and found[0] == "picture_too_few_bytes"


def test_the_time_is_that_of_one_look_at_each_byte() -> None:
    """Of twice as many bytes that are no marker it is twice as long, not four times."""
    for filling in (b"\xff" * (1 << 25), b"\xff" * (1 << 25) + b"\0"):
        began = time.process_time()
        assert too_costly(b"\xff\xd8" + filling) is not None
        assert time.process_time() - began < 5


@pytest.mark.parametrize("is_in_container", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (8, 8), (100, 80), (513, 900), (640, 480), (1920, 1080), (1000, 500)])
def test_the_size_of_a_jpeg_xl(size: tuple[int, int], is_in_container: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reader would decode all of it first; here by the bits of its header."""
    pytest.importorskip("pillow_jxl")
    held = io.BytesIO()
    Image.new("RGB", size).save(held, "JXL", use_container=is_in_container)
    assert too_costly(held.getvalue()) is None
    monkeypatch.setattr(picture_parts, "MAX_PIXELS_OF_JXL", 0)
    found = too_costly(held.getvalue())
    assert found == ("picture_too_many_pixels", {"width": size[0], "height": size[1], "most": 0})
