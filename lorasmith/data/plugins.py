"""Loads the packages from which Pillow learns further formats, when a file first needs them.

The format is recognized by the first bytes, since phones and converters give such files any extension.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

from lorasmith.data.files import BadFileError, read_head
from lorasmith.data.names import HEIF, INSTALL, JPEG_XL, Plugin

_HEAD = 16  # bytes by which a kind of picture is recognized
_BRANDS = {b"ftyp" + brand: HEIF for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")}
_MAY_BE_AVIF = (b"ftypmif1", b"ftypmsf1")
_SIGNATURES = {b"\xff\x0a": JPEG_XL, b"\0\0\0\x0cJXL \r\n\x87\n": JPEG_XL}
_OTHERS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")


def begins_like_a_picture(path: Path) -> bool:
    """Whether the first bytes of a file are those of a picture, whatever its name."""
    head = b""
    with suppress(BadFileError):
        head = read_head(path, _HEAD)
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_avif = head[4:12] == b"ftypavif"
    return is_webp or is_avif or head.startswith(_OTHERS) or _plugin_for(head) is not None


def load_for(path: Path, data: bytes) -> None:
    """Registers the format of these bytes with Pillow, if it needs another package.

    Raises:
        BadFileError: `picture_needs_plugin`, the package is not installed.
    """
    plugin = _plugin_for(data[:_HEAD])
    if plugin is None:
        return
    try:
        _register(plugin)
    except ImportError:
        if data[4:12] not in _MAY_BE_AVIF:
            raise BadFileError(path, "picture_needs_plugin", package=plugin.package, command=INSTALL) from None


def _plugin_for(head: bytes) -> Plugin | None:
    signed = (plugin for signature, plugin in _SIGNATURES.items() if head.startswith(signature))
    return _BRANDS.get(head[4:12]) or next(signed, None)


@cache
def _register(plugin: Plugin) -> None:
    module = import_module(plugin.module)  # JPEG XL needs no more
    if plugin is HEIF:
        module.register_heif_opener()
