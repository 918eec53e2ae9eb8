"""Pictures made to be trouble: name -> (bytes, the reason they are refused with, "" where they are fine)."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 80
PNG = b"\x89PNG\r\n\x1a\n"
XMP = b"<x:xmpmeta" + b'<!ENTITY a "&a;&a;">' * 1000 + b' tiff:Orientation="' + b"9" * 10_000
PALETTE = b"\xf0\0\0\0\0\0\xff\xff\xff"  # of a GIF: two colours


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int, depth: int = 8, colours: int = 2) -> bytes:
    return PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))


def rows(width: int, height: int, bytes_per_row: int) -> bytes:
    assert width
    return chunk(b"IDAT", zlib.compress((b"\0" + b"\1" * bytes_per_row) * height, 9))


def png(before: bytes = b"", behind: bytes = b"") -> bytes:
    """A good picture with chunks before and behind its pixels."""
    return header(WIDTH, HEIGHT) + before + rows(WIDTH, HEIGHT, 3 * WIDTH) + behind + chunk(b"IEND", b"")


def packed(count: int) -> bytes:
    return zlib.compress(b"\0" * count, 9)


def jpeg(**options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return saved(Image.fromarray(noise), "JPEG", **options)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


def resized(data: bytes, width: int, height: int) -> bytes:
    """A JPEG that promises another size."""
    was = struct.pack(">HH", HEIGHT, WIDTH)
    assert data.count(was) == 1
    return data.replace(was, struct.pack(">HH", height, width))


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = saved(Image.new("L", (1000, 1000), 128), "JPEG", progressive=True, quality=10)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def segments(count: int, mark: int, data: bytes) -> bytes:
    plain = jpeg()
    return plain[:2] + (bytes([0xFF, mark]) + struct.pack(">H", len(data) + 2) + data) * count + plain[2:]


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int], count: int) -> bytes:
    image = b"," + struct.pack("<HHHHB", *frame, 0) + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HH", *screen) + PALETTE + image * count + b";"


def animated(count: int) -> bytes:
    whole = saved(Image.new("P", (WIDTH, HEIGHT)), "GIF")[:-1]
    first = whole.index(b",")
    return whole[:first] + whole[first:] * count + b";"


def filled(between: bytes) -> bytes:
    """A good JPEG with this before its first table."""
    plain = jpeg()
    return plain[:2] + between + plain[2:]


def commented(blocks: bytes) -> bytes:
    """A good GIF with this before its first frame, as one comment's blocks."""
    whole = saved(Image.new("P", (WIDTH, HEIGHT)), "GIF")
    start = 13 + (3 << ((whole[10] & 7) + 1))
    return whole[:start] + b"!\xfe" + blocks + b"\0" + whole[start:]


def boxed(boxes: bytes) -> bytes:
    """A good JPEG 2000 with this behind its signature."""
    whole = saved(Image.new("RGB", (WIDTH, HEIGHT)), "JPEG2000")
    return whole[:12] + boxes + whole[12:]


def tiff(width: int = WIDTH, height: int = HEIGHT, **changed: tuple[int, int, int, int]) -> bytes:
    """One strip of grey; `tN=(type, count, value)` replaces or adds the tag N."""
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    tags |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, WIDTH * HEIGHT)}
    tags |= {int(name[1:]): value for name, value in changed.items()}  # type: ignore[misc]
    text = b"II*\0" + struct.pack("<IH", 8, len(tags))
    text += b"".join(struct.pack("<HHII", tag, *value) for tag, value in sorted(tags.items()))
    return text + struct.pack("<I", 0) + b"\x80" * (WIDTH * HEIGHT)


def many_tags(count: int, size: int) -> bytes:
    """Each of them says that the whole file is its value."""
    return tiff(**{f"t{30_000 + number}": (7, size, 0) for number in range(count)}).ljust(size, b"\0")


PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "png of 2^31 x 2^31": (lambda: header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", b""), "picture_too_many_pixels"),
    "png of no size": (lambda: header(0, 0) + chunk(b"IDAT", b""), "picture_unknown"),
    "png without its palette": (
        lambda: header(WIDTH, HEIGHT, 8, 3) + rows(WIDTH, HEIGHT, WIDTH) + chunk(b"IEND", b""),
        "picture_damaged",
    ),
    "png whose chunk is longer than all": (lambda: header(99, 99) + b"\xff\xff\xff\xffIDATabc", "picture_damaged"),
    "png with a zTXt bomb": (lambda: png(chunk(b"zTXt", b"a\0\0" + packed(50_000_000))), "picture_damaged"),
    "png with an iTXt bomb": (lambda: png(chunk(b"iTXt", b"a\0\1\0\0\0" + packed(50_000_000))), "picture_damaged"),
    "png with a bomb behind": (lambda: png(behind=chunk(b"zTXt", b"a\0\0" + packed(50_000_000))), "picture_damaged"),
    "png with a hundred bombs": (
        lambda: png(b"".join(chunk(b"zTXt", b"a%d\0\0" % one + packed(1_000_000)) for one in range(100))),
        "picture_damaged",
    ),
    "png with a thousand profiles": (
        lambda: png(chunk(b"iCCP", b"a\0\0" + packed(1_000_000)) * 1000),
        "picture_too_many_parts",
    ),
    "png of a million chunks": (lambda: png(chunk(b"prVt", b"") * 1_000_000), "picture_too_many_parts"),
    "png with far too many pixels behind": (
        lambda: header(WIDTH, HEIGHT) + chunk(b"IDAT", packed(50_000_000)) + chunk(b"IEND", b""),
        "",
    ),
    "png with 5000 frames": (
        lambda: png(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), chunk(b"fcTL", b"\0" * 26) * 5000),
        "",
    ),
    "png with an xmp that is none": (lambda: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)), ""),
    "png with an xmp that is no text": (lambda: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe")), ""),
    "jpeg with an xmp that is none": (lambda: segments(1, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP), ""),
    "png with an exif chunk that lies": (lambda: png(behind=b"\x7f\xff\xff\xffeXIfxxxx"), "picture_damaged"),
    "jpeg of 65500 x 65500": (lambda: resized(jpeg(), 65500, 65500), "picture_too_few_bytes"),
    "jpeg of 14000 x 14000": (lambda: resized(jpeg(), 14000, 14000), "picture_too_few_bytes"),
    "jpeg of 5000 scans": (lambda: scans(5000), "picture_too_many_parts"),
    "jpeg of fill bytes": (lambda: filled(b"\xff" * 5_000_000), "picture_too_many_parts"),
    "jpeg of fill bytes without end": (lambda: jpeg()[:2] + b"\xff" * 5_000_000, "picture_too_many_parts"),
    "jpeg of fill bytes that are none": (lambda: jpeg()[:2] + b"\xff" * 5_000_000 + b"\0", "picture_too_many_parts"),
    "jpeg of nothing between": (lambda: filled(b"\0" * 5_000_000), "picture_too_many_parts"),
    "jpeg of beginnings": (lambda: filled(b"\xff\xd8" * 5_000_000), "picture_too_many_parts"),
    "jpeg of comments": (lambda: filled(b"\xff\xfe\0\2" * 2_500_000), "picture_too_many_parts"),
    "jpeg with some fill bytes": (lambda: filled(b"\xff" * 60_000), ""),
    "jpeg of 10 scans": (lambda: scans(5), ""),
    "jpeg with 300 exif blocks": (lambda: segments(300, 0xE1, b"Exif\0\0" + b"x" * 60_000), ""),
    "jpeg with 300 profiles": (lambda: segments(300, 0xE2, b"ICC_PROFILE\0\1\1" + b"x" * 60_000), ""),
    "jpeg with an exif that reads itself": (
        lambda: segments(1, 0xE1, b"Exif\0\0" + many_tags(2000, 60_000)),
        "",
    ),
    "gif of 65535 x 65535": (lambda: gif((65535, 65535), (0, 0, 9, 9), 1), "picture_too_many_pixels"),
    "gif with a frame beyond": (lambda: gif((99, 99), (60000, 60000, 5000, 5000), 1), "picture_too_many_pixels"),
    "gif of nothing": (lambda: b"GIF89a" + struct.pack("<HH", 99, 99) + PALETTE + b";", "picture_unknown"),
    "gif of one long comment": (lambda: commented(b"\1a" * 5_000_000), "picture_too_many_parts"),
    "gif of comments": (lambda: commented(b"\1a\0!\xfe" * 2_000_000), "picture_too_many_parts"),
    "gif of nothing between": (lambda: commented(b"\0" * 10_000_000), "picture_too_many_parts"),
    "gif with a comment": (lambda: commented((b"\xff" + b"a" * 255) * 50_000), ""),
    "gif of 20000 frames": (lambda: animated(20_000), ""),
    "bmp of 2^31 x -2^31": (
        lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, *[0] * 6),
        "picture_too_many_pixels",
    ),
    "tiff of 60000 x 60000": (lambda: tiff(60_000, 60_000), "picture_too_many_pixels"),
    "tiff with less than it says": (lambda: tiff(9000, 9000), "picture_damaged"),
    "tiff whose strip is too long": (lambda: tiff(t279=(4, 1, 2**32 - 1)), ""),
    "tiff whose width is text": (lambda: tiff(t256=(2, 4, 0x00636261)), "picture_damaged"),
    "tiff that is read 2000 times": (lambda: many_tags(2000, 1_000_000), ""),
    "jpeg 2000 of boxes": (lambda: boxed(b"\0\0\0\x08free" * 1_200_000), "picture_too_many_parts"),
    "jpeg 2000 of boxes in a box": (
        lambda: boxed(struct.pack(">I4s", 9_600_008, b"jp2h") + b"\0\0\0\x08free" * 1_200_000),
        "picture_too_many_parts",
    ),
    "webp of 16383 x 16383": (
        lambda: b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xfe\x3f\0\xfe\x3f\0ALPH\0\0\0\0",
        "picture_damaged",
    ),
    "ppm of 2^40": (lambda: b"P6 1099511627776 80 255\n", "picture_damaged"),
    "ppm of one long number": (lambda: b"P5 " + b"9" * 1_000_000 + b" 80 255\n", "picture_damaged"),
    "ppm of comments": (
        lambda: b"P3 96 80 255\n" + b"#\n" * 2_000_000 + b"1 " * 96 * 80 * 3,
        "picture_too_many_parts",
    ),
    "ppm of blanks": (lambda: b"P6" + b" " * 5_000_000 + b"96 80 255\n" + bytes(30_000), "picture_too_many_parts"),
    "ppm of a range that nobody uses": (lambda: b"P5 9000 9000 7\n" + bytes(81_000_000), "picture_too_many_parts"),
    "ppm of the usual range": (lambda: b"P6 1000 1000 255\n" + bytes(3_000_000), ""),
    "a pickle": (lambda: b"\x80\x04\x95\x10\0\0\0\0\0\0\0cos\nsystem\n.", "picture_unknown"),
    "a script": (lambda: b"#!/bin/sh\ntouch executed\n", "picture_unknown"),
    "a program of PostScript": (lambda: saved(Image.new("RGB", (99, 99)), "EPS"), "picture_unknown"),
}
