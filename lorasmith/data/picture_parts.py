"""Estimates the work of decoding a picture file from its bytes, before a decoder begins.

A file of some kilobytes can take hours: a progressive JPEG may go over all its pixels any number of times, a PNG may
hold any number of packed colour profiles. A JPEG may promise pixels that its bytes cannot hold, which its decoder fills
with grey. The parts before the pixels are read in Python, piece by piece or byte by byte: half a gigabyte of nothing
takes minutes. Knows the outer structure of these formats, decodes nothing and knows no folder.
"""

import re
import struct
from collections.abc import Callable
from typing import Any

MAX_SCANS = 500  # encoders make about ten
MAX_CHUNKS = 100_000  # a PNG of 200 million pixels has about 25,000 of the usual 8 KiB
MAX_SEGMENTS = 10_000  # of a JPEG: a scan comes with some tables, a profile or an XMP in hundreds at most
MAX_FILL = 1 << 16  # bytes between two segments of a JPEG that belong to neither; encoders leave a few, if any
MAX_PROFILES = 16  # the PNG standard allows a single profile
MAX_OF_SLOW_PPM = 1 << 20  # bytes
MAX_PIXELS_OF_JXL = 80_000_000  # its reader decodes the whole file to get the size
PIXELS_PER_BYTE = 64 * 8  # a block of 8 x 8 pixels takes a bit at least, in Huffman's code

# Of a run of FF the last counts: a pattern that began with all of them would try again at each.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_IN_SCAN = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # a marker that ends a scan: not a stuffed FF, not a restart
_SIZES = rb"(?:\s{1,9}\d{1,9}){2}"
_QUICK_PPM = re.compile(rb"P(?:4%b|[56]%b\s{1,9}255|5%b\s{1,9}65535)\s" % (_SIZES, _SIZES, _SIZES))
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_END, _SCAN = 0xD9, 0xDA
_EXTENSION, _FRAME = 0x21, 0x2C  # what a block of a GIF begins with


def too_costly(data: bytes) -> tuple[str, dict[str, Any]] | None:
    """(reason of a problem, its fields) where decoding these bytes takes more work than a picture should; else None.

    Checks JPEG, PNG, GIF, JPEG 2000, JPEG XL and PPM; the pixels of others cost what their sizes say.
    """
    for signature, check in _SIGNATURES.items():
        if data.startswith(signature):
            return check(data)
    return None


def _of_jpeg(data: bytes) -> tuple[str, dict[str, Any]] | None:
    """Walks from marker to marker to the end of the first picture; data that phones append is ignored."""
    may_have_many = data.count(bytes([0xFF, _SCAN])) > MAX_SCANS
    scans, segments, place = 0, 0, 2
    while (found := _MARKER.search(data, place)) is not None:
        marker, fill, place = found[1][0], found.start() - place, found.end()
        segments += 1
        scans += marker == _SCAN
        if (over := _over_limits(fill, segments, scans)) is not None:
            return over
        if marker == _END:
            return None
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        if marker in _HUFFMAN_FRAMES:
            height, width = struct.unpack(">HH", data[place + 3 : place + 7].ljust(4, b"\0"))
            if width * height > len(data) * PIXELS_PER_BYTE:
                return "picture_too_few_bytes", {"width": width, "height": height, "bytes": len(data)}
        place += length
        if marker == _SCAN:
            end = _IN_SCAN.search(data, place) if may_have_many else None
            if end is None:
                return None
            place = end.start()
    return _over_limits(len(data) - place, segments, scans)


def _over_limits(fill: int, segments: int, scans: int) -> tuple[str, dict[str, Any]] | None:
    if fill > MAX_FILL:
        return _too_many("JPEG: fill byte", fill, MAX_FILL)
    if segments > MAX_SEGMENTS:
        return _too_many("JPEG: segment", segments, MAX_SEGMENTS)
    if scans > MAX_SCANS:
        return _too_many("JPEG: scan", scans, MAX_SCANS)
    return None


def _of_png(data: bytes) -> tuple[str, dict[str, Any]] | None:
    chunks, profiles, place = 0, 0, 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunks += 1
        profiles += kind == b"iCCP"
        if chunks > MAX_CHUNKS:
            return _too_many("PNG: chunk", chunks, MAX_CHUNKS)
        if profiles > MAX_PROFILES:
            return _too_many("PNG: iCCP", profiles, MAX_PROFILES)
        if kind == b"IEND":
            break
        place += length + 12
    return None


def _of_gif(data: bytes) -> tuple[str, dict[str, Any]] | None:
    """Walks to the first frame: over blocks of comments and the like, and bytes that are no block."""
    palette = 3 << ((data[10] & 7) + 1) if len(data) > 10 and data[10] & 0x80 else 0
    parts, place = 0, 13 + palette
    while place < len(data) and data[place] != _FRAME:
        place += 1
        if data[place - 1] == _EXTENSION:
            place += 1
            while place < len(data) and data[place] and parts <= MAX_CHUNKS:
                place += data[place] + 1
                parts += 1
        parts += 1
        if parts > MAX_CHUNKS:
            return _too_many("GIF: block", parts, MAX_CHUNKS)
    return None


def _of_jpeg2000(data: bytes) -> tuple[str, dict[str, Any]] | None:
    """Walks from box to box to the pixels, into the box that describes the picture."""
    boxes, place = 0, 0
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        boxes += 1
        if boxes > MAX_CHUNKS:
            return _too_many("JPEG 2000: box", boxes, MAX_CHUNKS)
        if kind == b"jp2c" or length == 0:
            break
        if length == 1:  # then the real length follows, in 8 bytes
            length = int.from_bytes(data[place + 8 : place + 16], "big")
        place += 8 if kind == b"jp2h" else max(length, 8)
    return None


def _of_ppm(data: bytes) -> tuple[str, dict[str, Any]] | None:
    """Refuses large files with numbers as text, comments or unusual ranges: those are read number by number."""
    if len(data) <= MAX_OF_SLOW_PPM or _QUICK_PPM.match(data):
        return None
    return _too_many("PPM: byte", len(data), MAX_OF_SLOW_PPM)


def _of_jpeg_xl(data: bytes) -> tuple[str, dict[str, Any]] | None:
    """Reads the size from the beginning of the codestream, where it is packed into some bits."""
    start = 0 if data.startswith(_JXL_CODESTREAM) else data.find(_JXL_CODESTREAM, 12, 12 + MAX_FILL)
    if start < 0:
        return None  # its decoder reports the error
    bits = _Bits(int.from_bytes(data[start + 2 : start + 18], "little"))
    is_small = bits.take(1) == 1
    height = bits.small_size() if is_small else bits.size()
    ratio = bits.take(3)
    if ratio:
        across, down = _JXL_RATIOS[ratio - 1]
        width = height * across // down
    else:
        width = bits.small_size() if is_small else bits.size()
    if width * height <= MAX_PIXELS_OF_JXL:
        return None
    return "picture_too_many_pixels", {"width": width, "height": height, "most": MAX_PIXELS_OF_JXL}


class _Bits:
    """The fields of a JPEG XL header, the lowest bit first."""

    def __init__(self, value: int) -> None:
        self._value = value

    def take(self, count: int) -> int:
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken

    def small_size(self) -> int:
        return (self.take(5) + 1) * 8

    def size(self) -> int:
        return self.take((9, 13, 18, 30)[self.take(2)]) + 1


_JXL_CODESTREAM = b"\xff\x0a"
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))

_SIGNATURES: dict[bytes, Callable[[bytes], tuple[str, dict[str, Any]] | None]] = {
    b"\xff\xd8": _of_jpeg,
    b"\x89PNG\r\n\x1a\n": _of_png,
    b"GIF8": _of_gif,
    b"\0\0\0\x0cjP  \r\n\x87\n": _of_jpeg2000,
    b"\0\0\0\x0cJXL \r\n\x87\n": _of_jpeg_xl,
    _JXL_CODESTREAM: _of_jpeg_xl,
    b"P": _of_ppm,
}


def _too_many(part: str, count: int, most: int) -> tuple[str, dict[str, Any]]:
    return "picture_too_many_parts", {"part": part, "count": count, "most": most}
