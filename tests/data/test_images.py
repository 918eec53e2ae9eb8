import hashlib
import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image, features

from lorasmith.config.sections.dataset import Interpolation
from lorasmith.data import images
from lorasmith.data.augmentation import mirrored
from lorasmith.data.buckets import fit
from lorasmith.data.files import BadFileError
from lorasmith.data.types import Example, Offset, Size
from tests.data.drawing import drawn, problem_of, put_picture, size_of

WIDTH, HEIGHT = 96, 80
AVIF = ["AVIF"] if features.check("avif") else []  # newer than the oldest Pillow that will do


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises any size, with next to no pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def as_array(path: Path) -> np.ndarray:
    return np.asarray(images.open_rgb(path)).astype(int)


def example_of(path: Path, *buckets: Size) -> Example:
    size, sha = images.inspect(path, decode=False)
    resized, bucket, crop = fit(size, buckets)
    return Example(path, "", 1, size, resized, bucket, crop, sha, "")


# -- what is handled -------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", *AVIF])
def test_exif_orientation_turns_the_picture(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain, turned = tmp_path / "plain.png", tmp_path / "turned.png"
    upright = drawn(WIDTH, HEIGHT)
    # what a camera would have stored for the scene to be seen upright with this orientation
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Transpose members that undo 2..8
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))
    plain.write_bytes(encoded(upright, "PNG"))
    turned.write_bytes(
        encoded(stored, kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "WEBP", "AVIF") else {}))
    )
    assert size_of(turned) == Size(WIDTH, HEIGHT)
    assert problem_of(turned) is None
    assert np.abs(as_array(turned) - as_array(plain)).mean() < 3


def test_tiff_is_turned_once_with_every_compression(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = drawn(WIDTH, HEIGHT)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate"):
        path = tmp_path / "a.tif"
        path.write_bytes(encoded(stored, "TIFF", exif=exif, compression=compression))
        assert size_of(path) == Size(HEIGHT, WIDTH)
        assert np.array_equal(as_array(path), np.rot90(np.asarray(stored), -1))


def test_the_exif_chunk_of_a_png_may_stand_behind_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    data = encoded(drawn(WIDTH, HEIGHT), "PNG")
    end = data.rindex(b"IEND") - 4
    path = tmp_path / "a.png"
    path.write_bytes(data[:end] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[end:])
    assert size_of(path) == Size(HEIGHT, WIDTH)
    assert np.array_equal(as_array(path), np.rot90(np.asarray(drawn(WIDTH, HEIGHT)), 1))


@pytest.mark.parametrize("exif", [b"Exif\0\0broken", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""])
def test_a_broken_exif_block_is_no_reason_to_refuse(tmp_path: Path, exif: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        path = tmp_path / "a"
        path.write_bytes(encoded(drawn(WIDTH, HEIGHT), kind, exif=exif))
        assert problem_of(path) is None
        assert images.open_rgb(path).size == (WIDTH, HEIGHT)


def _half_transparent(mode: str) -> Image.Image:
    """Left half a colour, right half transparent."""
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[:, : WIDTH // 2] = 255
    red = Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 30))
    red.putalpha(Image.fromarray(alpha))
    return red if mode == "RGBA" else red.convert(mode)


def _palette_with_transparent_entry() -> Image.Image:
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[:, WIDTH // 2 :] = 1
    image = Image.fromarray(indices, "L").convert("P")
    image.putpalette([200, 30, 30, 10, 200, 10] + [0] * 762)
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (_half_transparent("RGBA"), "PNG"),
        (_half_transparent("RGBA"), "WEBP"),
        (_half_transparent("RGBA"), "TIFF"),
        (_half_transparent("RGBA"), "GIF"),
        (_half_transparent("LA"), "PNG"),
        (_palette_with_transparent_entry(), "PNG"),
        (_palette_with_transparent_entry(), "GIF"),
    ],
)
def test_transparent_is_white(tmp_path: Path, image: Image.Image, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    if "transparency" in image.info:
        options["transparency"] = image.info["transparency"]
    path = tmp_path / "a"
    path.write_bytes(encoded(image, kind, **options))
    seen = as_array(path)
    assert (seen[:, WIDTH // 2 + 1 :] == 255).all()
    left = seen[:, : WIDTH // 2 - 1]
    expected = (200, 30, 30) if image.mode != "LA" else (81, 81, 81)
    assert np.abs(left - np.array(expected)).max() <= 3


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 128)).save(path)
    assert np.abs(as_array(path) - 127).max() <= 1


def test_16_bit_grey_keeps_its_greys(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, WIDTH), (HEIGHT, 1)).astype(np.uint16)
    for kind in ("PNG", "TIFF", "PPM"):
        path = tmp_path / "a"
        path.write_bytes(encoded(Image.fromarray(ramp), kind))
        seen = as_array(path)
        assert np.abs(seen - (ramp / 257)[..., None]).max() <= 0.51
        assert problem_of(path) is None


def test_16_bit_grey_with_a_transparent_value(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(WIDTH) * 600, (HEIGHT, 1)).astype(np.uint16)
    data = encoded(Image.fromarray(ramp), "PNG")
    at = data.index(b"IDAT") - 4
    path = tmp_path / "a.png"
    path.write_bytes(data[:at] + png_chunk(b"tRNS", struct.pack(">H", 600 * 5)) + data[at:])
    seen = as_array(path)
    assert (seen[:, 5] == 255).all()
    assert (seen[:, 4] < 20).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB"])
def test_every_common_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    path = tmp_path / "a"
    path.write_bytes(encoded(drawn(WIDTH, HEIGHT).convert(mode), kind))
    assert problem_of(path) is None
    seen = images.open_rgb(path)
    assert seen.mode == "RGB"
    if mode in ("CMYK", "YCbCr", "RGB"):
        assert np.abs(np.asarray(seen).astype(int) - np.asarray(drawn(WIDTH, HEIGHT))).mean() < 8


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_frame_of_an_animation(tmp_path: Path, kind: str) -> None:
    first, second = Image.new("RGB", (WIDTH, HEIGHT), "red"), Image.new("RGB", (WIDTH, HEIGHT), "blue")
    path = tmp_path / "a"
    path.write_bytes(encoded(first, kind, save_all=True, append_images=[second]))
    assert np.abs(as_array(path) - np.array([255, 0, 0])).max() < 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "JPEG2000", *AVIF])
def test_a_wrong_extension_does_not_matter(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.bmp"
    path.write_bytes(encoded(drawn(WIDTH, HEIGHT), kind))
    assert problem_of(path) is None
    assert images.open_rgb(path).size == size_of(path) == (WIDTH, HEIGHT)


# -- what is refused -------------------------------------------------------------------------------

WHOLE = {
    "png": lambda: encoded(drawn(400, 300), "PNG"),
    "jpeg": lambda: encoded(drawn(400, 300), "JPEG", quality=95),
    "progressive": lambda: encoded(drawn(400, 300), "JPEG", quality=95, progressive=True),
    "webp": lambda: encoded(drawn(400, 300), "WEBP", quality=95),
    "gif": lambda: encoded(drawn(400, 300), "GIF"),
    "bmp": lambda: encoded(drawn(400, 300), "BMP"),
    "tiff": lambda: encoded(drawn(400, 300), "TIFF"),
    "lzw": lambda: encoded(drawn(400, 300), "TIFF", compression="tiff_lzw"),
}
if AVIF:
    WHOLE["avif"] = lambda: encoded(drawn(400, 300), "AVIF")


@pytest.mark.parametrize("kind", WHOLE)
def test_truncation_is_found_wherever_it_is(tmp_path: Path, kind: str) -> None:
    whole = WHOLE[kind]()
    path = tmp_path / "a"
    path.write_bytes(whole)
    assert problem_of(path) is None
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        path.write_bytes(whole[: int(len(whole) * share)])
        problem = problem_of(path)
        assert problem is not None, share
        assert problem.reason in ("picture_damaged", "picture_unknown", "picture_too_few_bytes")
        with pytest.raises(BadFileError):
            images.open_rgb(path)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "picture_empty"),
    "html": (lambda: b"<!DOCTYPE html><html><body>404</body></html>" * 20, "picture_unknown"),
    "noise": (lambda: bytes(range(256)) * 8, "picture_unknown"),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>', "picture_unknown"),
    "a document that runs a program": (lambda: encoded(drawn(99, 99), "EPS"), "picture_unknown"),
    "bad checksum": (lambda: flipped(WHOLE["png"](), 80), "picture_damaged"),
    "bomb": (lambda: png_of_size(65500, 65500), "picture_too_many_pixels"),
    "bomb of 178 million": (lambda: png_of_size(20000, 10001), "picture_too_many_pixels"),
    "promises pixels it has not": (lambda: png_of_size(12000, 10000), "picture_damaged"),
    "1 x 1": (lambda: encoded(drawn(1, 1), "PNG"), "picture_too_small"),
    "1 x 20000": (lambda: encoded(drawn(1, 20000), "PNG"), "picture_too_small"),
    "63 high": (lambda: encoded(drawn(300, 63), "JPEG"), "picture_too_small"),
    "floats": (lambda: encoded(Image.new("F", (99, 99), 0.5), "TIFF"), "picture_pixel_format"),
    "32-bit": (lambda: encoded(Image.fromarray(np.full((99, 99), 70000, np.int32)), "TIFF"), "picture_pixel_format"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_its_reason(tmp_path: Path, what: str) -> None:
    make, reason = REFUSED[what]
    path = tmp_path / "a.png"
    path.write_bytes(make())
    problem = problem_of(path)
    assert problem is not None
    assert (problem.path, problem.reason) == (path, reason)


def test_64_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    drawn(64, 64).save(path)
    assert problem_of(path) is None


def test_a_bomb_is_refused_before_its_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of_size(65500, 65500))
    tracemalloc.start()
    assert problem_of(path) is not None
    with pytest.raises(BadFileError):
        size_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_pillow_neither_warns_nor_keeps_our_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50_000_000)
    path = tmp_path / "a.png"
    path.write_bytes(png_of_size(12000, 10000))  # over that limit, under ours
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert size_of(path) == Size(12000, 10000)
        problem_of(path)
    assert not said
    assert Image.MAX_IMAGE_PIXELS == 50_000_000


# -- pixels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "resized", "cut"),
    [((300, 200), Size(192, 128), (32, 0, 160, 128)), ((200, 300), Size(128, 192), (0, 32, 128, 160))],
)
def test_pixels_are_the_cut_of_the_whole_picture(
    tmp_path: Path, size: tuple[int, int], resized: Size, cut: tuple[int, int, int, int]
) -> None:
    path = tmp_path / "a.png"
    drawn(*size).save(path)
    example = example_of(path, Size(128, 128))
    assert example.resized == resized
    found = images.pixels(example)
    assert found.shape == (3, 128, 128)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    whole = images.open_rgb(path).resize(example.resized, Image.Resampling.LANCZOS).crop(cut)
    expected = np.asarray(whole).transpose(2, 0, 1) / 127.5 - 1
    assert np.abs(found - expected).max() <= 1.01 / 127.5
    assert found[0, 0, 0] < found[0, 0, -1]  # red grows to the right
    assert found[1, 0, 0] < found[1, -1, 0]  # green downwards


def test_black_and_white_are_minus_one_and_one(tmp_path: Path) -> None:
    for colour, value in (("black", -1.0), ("white", 1.0)):
        path = tmp_path / f"{colour}.png"
        Image.new("RGB", (70, 90), colour).save(path)
        assert (images.pixels(example_of(path, Size(64, 64))) == value).all()


def test_a_picture_of_the_buckets_size_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    drawn(96, 64).save(path)
    found = images.pixels(example_of(path, Size(96, 64)))
    assert np.array_equal(np.rint((found + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0), np.asarray(drawn(96, 64)))


def test_a_very_long_picture_takes_no_more_memory_than_its_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (64, 300_000), 200).save(path)
    example = example_of(path, Size(256, 256))
    assert example.resized == Size(256, 1_200_000)
    assert images.pixels(example).shape == (3, 256, 256)


def test_a_picture_that_changed_since_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    drawn(96, 64).save(path)
    example = example_of(path, Size(96, 64))
    drawn(96, 64, number=1).save(path)
    with pytest.raises(BadFileError) as caught:
        images.pixels(example)
    assert caught.value.problem.reason == "picture_changed"
    path.unlink()
    with pytest.raises(BadFileError) as caught:
        images.pixels(example)
    assert caught.value.problem.reason == "file_missing"


def test_inspect_hashes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    drawn(96, 64).save(path)
    assert images.inspect(path, decode=False)[1] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_mirrored_example_is_the_mirrored_cut(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png", 300, 200, 4)
    example = replace(example_of(tmp_path / "a.png", Size(128, 128)), crop=Offset(5, 0))
    assert np.array_equal(images.pixels(mirrored(example)), images.pixels(example)[:, :, ::-1])


def test_each_filter_gives_pixels_of_its_own(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    example = example_of(tmp_path / "a.png", Size(128, 128))
    names = [name for name in get_args(Interpolation) if name != "auto"]
    found = {name: images.pixels(replace(example, resampling=name)).tobytes() for name in names}
    assert len(set(found.values())) == len(names) == 5
