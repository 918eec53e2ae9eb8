"""HEIC and JPEG XL: read through their packages, named where those are lacking."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from lorasmith.data import images, names, plugins
from lorasmith.data.files import BadFileError
from tests.data.drawing import drawn, problem_of, size_of

WIDTH, HEIGHT = 96, 80
AVIF = ["AVIF"] if features.check("avif") else []


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def as_array(path: Path) -> np.ndarray:
    return np.asarray(images.open_rgb(path)).astype(int)


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_kinds_that_need_a_plugin(tmp_path: Path, kind: str) -> None:
    with_plugin(kind)
    path = tmp_path / "a.jpg"  # as phones and converters name them
    path.write_bytes(encoded(drawn(WIDTH, HEIGHT), kind))
    assert plugins.begins_like_a_picture(path)
    assert problem_of(path) is None
    assert np.abs(as_array(path).astype(int) - np.asarray(drawn(WIDTH, HEIGHT))).mean() < 8
    transparent = Image.new("RGBA", (WIDTH, HEIGHT), (255, 0, 0, 0))
    path.write_bytes(encoded(transparent, kind))
    assert np.abs(as_array(path).astype(int) - 255).max() < 4  # over white


def with_plugin(kind: str) -> None:
    module = pytest.importorskip("pillow_heif" if kind == "HEIF" else "pillow_jxl")
    if kind == "HEIF":
        module.register_heif_opener()


@pytest.mark.parametrize("kind", ["HEIF", "JXL", "JXL of a JPEG", *AVIF])
def test_orientation_counts_once(tmp_path: Path, kind: str) -> None:
    """A reader that turns the picture itself leaves a tag behind, or not: a photograph must not be turned twice."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    path = tmp_path / "a"
    if kind == "JXL of a JPEG":
        with_plugin("JXL")
        jpeg = tmp_path / "a.jpg"
        jpeg.write_bytes(encoded(drawn(WIDTH, HEIGHT), "JPEG", quality=95, exif=exif.tobytes()))
        with Image.open(jpeg) as image:
            path.write_bytes(encoded(image, "JXL", lossless_jpeg=True))
        upright = True
    else:
        if kind != "AVIF":
            with_plugin(kind)
        path.write_bytes(encoded(drawn(WIDTH, HEIGHT), kind, exif=exif.tobytes()))
        upright = kind != "JXL"  # the pixels are as they are to be seen, whatever the tag says
    expected = drawn(WIDTH, HEIGHT).transpose(Image.Transpose.ROTATE_270) if upright else drawn(WIDTH, HEIGHT)
    assert size_of(path) == expected.size
    assert np.abs(as_array(path).astype(int) - np.asarray(expected)).mean() < 8


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_without_the_plugin_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    with_plugin(kind)
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(drawn(WIDTH, HEIGHT), kind))

    def lacking(_plugin: names.Plugin) -> None:
        raise ImportError

    monkeypatch.setattr(plugins, "_register", lacking)
    problem = problem_of(path)
    assert problem is not None
    assert problem.reason == "picture_needs_plugin"
    assert problem.fields["package"] in ("pillow-heif", "pillow-jxl-plugin")
    assert problem.fields["command"] == 'pip install "lorasmith[pictures]"'


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
def test_truncation_is_found_wherever_it_is(tmp_path: Path, kind: str) -> None:
    with_plugin(kind)
    noise = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    path = tmp_path / "a"
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        path.write_bytes(whole[: int(len(whole) * share)])
        problem = problem_of(path)
        assert problem is not None, share
        assert problem.reason in ("picture_damaged", "picture_unknown")
        with pytest.raises(BadFileError):
            images.open_rgb(path)


def test_what_begins_like_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "JPEG2000", *AVIF):
        path.write_bytes(encoded(drawn(WIDTH, HEIGHT), kind))
        assert plugins.begins_like_a_picture(path), kind
    for data in (b"", b"RIFF....WAVE", b"words", b"{}", b"\0" * 20):
        path.write_bytes(data)
        assert not plugins.begins_like_a_picture(path), data
    assert not plugins.begins_like_a_picture(tmp_path / "gone")
