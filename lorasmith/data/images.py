"""Reads a picture file: its size from the header, whether all of it can be decoded, and its pixels for the VAE.

Knows nothing of folders, captions and buckets: the cut of a picture is part of its example.
"""

from __future__ import annotations

import hashlib
import io
import logging
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from lorasmith.data import plugins
from lorasmith.data.files import BadFileError, read_whole
from lorasmith.data.picture_parts import too_costly
from lorasmith.data.types import Example, Mask, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_SIDE = 64  # pixels
MAX_PIXELS = 200_000_000  # of the largest phone sensors; 0.8 GB once decoded, twice that where transparent
# The decoders of these hold up to 18 bytes a pixel at once, those of others 4 to 12.
MAX_PIXELS_OF = {"WEBP": 80_000_000, "JPEG2000": 80_000_000, "HEIF": 80_000_000, "JXL": 80_000_000}
MAX_BYTES = 512 * 2**20

# The formats that are read, whatever the extension. Not here: formats that run other programs (EPS) or hold documents.
# JPEG includes the several pictures in one file of phones (MPO), of which the first counts.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "HEIF", "JXL")

# Exceptions of Pillow's readers for broken files, found by fuzzing: Pillow has none of its own for that.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError)
_BROKEN_LOW_LEVEL = (struct.error, zlib.error, RuntimeError, AssertionError)

_BAND = 1 << 22  # pixels that are converted at once

logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise it writes to stderr what becomes a problem here

Channels = Callable[[Path, Image.Image], Image.Image]
"""The part of an opened picture that is decoded."""

_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,  # the mean over the area of a pixel
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def inspect(path: Path, *, decode: bool) -> tuple[Size, str]:
    """Width and height as seen, after EXIF orientation, and the SHA-256 of the file's bytes, which are read once.

    Raises:
        BadFileError: not a picture of a known kind, over MAX_PIXELS, a side under MIN_SIDE; with `decode`, also where
            the pixels are truncated or damaged.
    """
    data = _read(path)
    with _opened(path, io.BytesIO(data)) as image:
        size = _checked_size(path, image)
        if decode:
            # A JPEG is decoded at an eighth of its size: every byte is still read, in a fraction of the time.
            image.draft(None, (1, 1))
            for _ in _rgb_bands(path, image):
                pass
    return size, hashlib.sha256(data).hexdigest()


def open_rgb(path: Path) -> Image.Image:
    """The first frame, upright, over white where it is transparent, 8-bit RGB.

    Raises:
        BadFileError: as `inspect` with `decode`.
    """
    return _decoded(path, _read(path))


def open_mask(mask: Mask) -> Image.Image:
    """The mask, upright, 8-bit grey: the alpha channel of a picture, white where it has none, or a red channel.

    Raises:
        BadFileError: `picture_changed`, as `pixels`; else as `open_rgb`.
    """
    data = _read(mask.file)
    if hashlib.sha256(data).hexdigest() != mask.sha256:
        raise BadFileError(mask.file, "picture_changed")
    return _decoded(mask.file, data, _alpha_of if mask.is_alpha else _red_of)


def pixels(example: Example) -> NDArray[np.float32]:
    """(3, H, W) in [-1, 1]: the picture scaled to `resized`, of which the `bucket` at `crop` is kept;
    mirrored where the example is.

    Only that part is resampled, so a very long picture costs no more than another.

    Raises:
        BadFileError: `picture_changed` where the file has other bytes than when the folder was scanned, so that nothing
            is stored under the wrong hash; else as `open_rgb`.
    """
    data = _read(example.image)
    if hashlib.sha256(data).hexdigest() != example.image_sha256:
        raise BadFileError(example.image, "picture_changed")
    image = _decoded(example.image, data)
    cut = cut_of(image, example, example.bucket, _FILTERS[example.resampling])
    # Imported here: a wrong folder name must be reported at once, and importing numpy takes longer than that may take.
    import numpy as np

    channels_first = np.asarray(cut, dtype=np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray(channels_first) / np.float32(127.5) - np.float32(1)


def cut_of(image: Image.Image, example: Example, size: Size, resample: Image.Resampling) -> Image.Image:
    """The part of a picture that an example keeps, scaled to `size`, and mirrored where the example is."""
    across, down = image.width / example.resized.width, image.height / example.resized.height
    left, top = example.crop
    if example.is_mirrored:
        left = example.resized.width - example.bucket.width - left
    box = (
        left * across,
        top * down,
        min((left + example.bucket.width) * across, image.width),
        min((top + example.bucket.height) * down, image.height),
    )
    cut = image.resize(size, resample, box=box)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if example.is_mirrored else cut


# -- decoding --------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    data = read_whole(path, most=MAX_BYTES)
    if not data:
        raise BadFileError(path, "picture_empty")
    costly = too_costly(data)
    if costly is not None:
        raise BadFileError(path, costly[0], **costly[1])
    plugins.load_for(path, data)
    return data


def _decoded(path: Path, data: bytes, channels: Channels | None = None) -> Image.Image:
    """The picture upright: all of it as `_to_rgb` gives it, or certain `channels`."""
    with _opened(path, io.BytesIO(data)) as image:
        _checked_size(path, image)
        turn = None if isinstance(image, TiffImageFile) else _TURNS.get(_orientation(image))  # Pillow turns TIFF itself
        decoded = (channels or _to_rgb)(path, image)
        return decoded if turn is None else decoded.transpose(turn)


def _red_of(path: Path, image: Image.Image) -> Image.Image:
    return _to_rgb(path, image).getchannel("R")


def _alpha_of(_path: Path, image: Image.Image) -> Image.Image:
    image.load()
    if not image.has_transparency_data or image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.new("L", image.size, 255)
    return image.convert("RGBA").getchannel("A")


@contextmanager
def _opened(path: Path, source: IO[bytes]) -> Iterator[Image.Image]:
    """Opens Pillow's picture, header read; every error of Pillow about a broken picture becomes BadFileError.

    Pillow's own limit of pixels is off meanwhile, since `_checked_size` applies ours; its warnings are handled here.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield Image.open(source, formats=_formats())
    except UnidentifiedImageError:
        raise BadFileError(path, "picture_unknown") from None
    except MemoryError:
        raise BadFileError(path, "picture_memory") from None
    except (*_BROKEN, *_BROKEN_LOW_LEVEL) as error:
        raise BadFileError(path, "picture_damaged", detail=str(error) or type(error).__name__) from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _checked_size(path: Path, image: Image.Image) -> Size:
    """The size as seen, from the header, before anything of that size is allocated."""
    width, height = image.size
    if isinstance(image, TiffImageFile):  # newer versions of Pillow have turned it by now, older versions have not
        width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
    most = MAX_PIXELS_OF.get(image.format or "", MAX_PIXELS)
    if width * height > most:
        raise BadFileError(path, "picture_too_many_pixels", width=width, height=height, most=most)
    if min(width, height) < MIN_SIDE:
        raise BadFileError(path, "picture_too_small", width=width, height=height, least=MIN_SIDE)
    return Size(height, width) if _orientation(image) >= 5 else Size(width, height)


def _orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts them, known without decoding; 1 where the tag is missing, or cannot be read."""
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # it has been turned already, and the tag is of its original state; not so in a JPEG that was packed
    try:
        if isinstance(image, PngImageFile) and "exif" not in image.info:
            late = _exif_behind_pixels(image)
            if late is not None:
                image.info["exif"] = late
        tag = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PNG's own getexif would decode all pixels
    except (
        *_BROKEN,
        *_BROKEN_LOW_LEVEL,
    ):  # a broken tag is no reason to refuse the picture: viewers show it unturned
        return 1
    return tag if isinstance(tag, int) and tag in _TURNS else 1


def _exif_behind_pixels(image: PngImageFile) -> bytes | None:
    """The content of a PNG's eXIf chunk, which may come after the pixels; found by walking from chunk to chunk."""
    source = image.fp
    assert source is not None
    here = source.tell()
    try:
        source.seek(8)  # the signature
        while len(head := source.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return source.read(length)
            source.seek(length + 4, io.SEEK_CUR)
        return None
    finally:
        source.seek(here)


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    """Decodes the picture; 8-bit RGB, over white where it is transparent."""
    image.load()
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    top = 0
    for band in _rgb_bands(path, image):
        whole.paste(band, (0, top))
        top += band.height
    return whole


def _rgb_bands(path: Path, image: Image.Image) -> Iterator[Image.Image]:
    """The same from top to bottom in bands of rows: converting all at once would hold four copies in memory."""
    image.load()
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        band = image if box == (0, 0, *image.size) else image.crop(box)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            yield _grey_of_16_bits(path, band).convert("RGB")
        elif image.has_transparency_data:
            upper = band.convert("RGBA")
            yield Image.alpha_composite(Image.new("RGBA", upper.size, "white"), upper).convert("RGB")
        else:
            yield band if band.mode == "RGB" else band.convert("RGB")


def _grey_of_16_bits(path: Path, image: Image.Image) -> Image.Image:
    """0..65535 to the nearest of 0..255. Pillow's own conversion would cut everything over 255 to white."""
    import numpy as np  # as in `pixels`

    values = np.asarray(image)
    if image.mode == "F" or (values.size and (values.min() < 0 or values.max() > 0xFFFF)):
        raise BadFileError(path, "picture_pixel_format", mode=image.mode)  # which value is white is unknown
    scaled = ((values.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        scaled[values == transparent] = 255
    return Image.fromarray(scaled)
