"""What the bytes of a picture file say about the work of decoding it, before a decoder begins.

A file of some kilobytes can ask for hours: a progressive JPEG may go over all its pixels any number of times, a PNG may
hold any number of packed colour profiles. And a JPEG may promise pixels that its bytes cannot hold, which its decoder
fills with grey. Knows the outer structure of these two formats, decodes nothing and knows no folder.
"""

import re
import struct
from typing import Any

MOST_SCANS = 500  # encoders make about ten
MOST_CHUNKS = 100_000  # a PNG of 200 million pixels has about 25,000 of the usual 8 KiB
MOST_PROFILES = 16  # the PNG standard has one
PIXELS_PER_BYTE = 64 * 8  # a block of 8 x 8 pixels takes a bit at least, in Huffman's code

_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_IN_SCAN = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])")  # a marker that ends a scan: not a stuffed FF, not a restart
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_END, _SCAN = 0xD9, 0xDA


def too_costly(data: bytes) -> tuple[str, dict[str, Any]] | None:
    """(reason of a problem, its fields) where these bytes ask for more work than a picture does; None where not.

    Looks at JPEG and PNG; the pixels of others cost what their sizes say.
    """
    if data[:2] == b"\xff\xd8":
        return _of_jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _of_png(data)
    return None


def _of_jpeg(data: bytes) -> tuple[str, dict[str, Any]] | None:
    """Walks from marker to marker to the end of the first picture: what phones append is not looked at."""
    may_have_many = data.count(bytes([0xFF, _SCAN])) > MOST_SCANS
    scans, place = 0, 2
    while (found := _MARKER.search(data, place)) is not None:
        marker, place = found[1][0], found.end()
        if marker == _END:
            break
        if marker in _ALONE:
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        if marker in _HUFFMAN_FRAMES:
            height, width = struct.unpack(">HH", data[place + 3 : place + 7].ljust(4, b"\0"))
            if width * height > len(data) * PIXELS_PER_BYTE:
                return "picture_too_few_bytes", {"width": width, "height": height, "bytes": len(data)}
        place += length
        if marker == _SCAN:
            if not may_have_many:
                break
            scans += 1
            if scans > MOST_SCANS:
                return _too_many("JPEG: scan", scans, MOST_SCANS)
            end = _IN_SCAN.search(data, place)
            if end is None:
                break
            place = end.start()
    return None


def _of_png(data: bytes) -> tuple[str, dict[str, Any]] | None:
    chunks, profiles, place = 0, 0, 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunks += 1
        profiles += kind == b"iCCP"
        if chunks > MOST_CHUNKS:
            return _too_many("PNG: chunk", chunks, MOST_CHUNKS)
        if profiles > MOST_PROFILES:
            return _too_many("PNG: iCCP", profiles, MOST_PROFILES)
        if kind == b"IEND":
            break
        place += length + 12
    return None


def _too_many(part: str, count: int, most: int) -> tuple[str, dict[str, Any]]:
    return "picture_too_many_parts", {"part": part, "count": count, "most": most}
