"""Masks of the loss: finds them, and makes them as large as the latents. 1 counts in full, 0 not at all.

As in sd-scripts a mask is the alpha channel of the picture, or the red channel of a file with the picture's name in a
folder of masks, which takes precedence.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from PIL import Image

from lorasmith.data import names
from lorasmith.data.files import BadFileError, as_fields, shown
from lorasmith.data.folder import Scan, read_picture
from lorasmith.data.images import cut_of, open_mask
from lorasmith.data.seen import Seen, SeenFile
from lorasmith.data.types import Example, Mask, Problem, Size
from lorasmith.data.unused import listed
from lorasmith.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1  # goes up with every change to how masks are made


@dataclass(frozen=True, slots=True)
class MaskFiles:
    """The mask files of a folder and of its sub-folders."""

    folder: Path
    by_name: Mapping[str, Path] = field(default_factory=dict)  # "10_cat/1" or "1", without the extension

    @classmethod
    def found_in(cls, folder: Path) -> MaskFiles:
        """Lists the folder.

        Raises:
            DatasetError: `masks_missing`, there is no such folder.
        """
        try:
            files, folders = listed(folder)
            places = [PurePosixPath(name) for name in files]
            places += [PurePosixPath(sub, name) for sub in folders for name in listed(folder / sub)[0]]
        except OSError:
            raise DatasetError("masks_missing", folder=shown(folder)) from None
        pictures = [place for place in places if names.extension_of(place.name) in names.readable()]
        return cls(folder, {_name(place): folder / place for place in reversed(pictures)})

    def of(self, picture: str) -> Path | None:
        """The mask of a picture, by its name in the dataset: in a sub-folder of the same name, else anywhere above."""
        name = _name(PurePosixPath(picture))
        return self.by_name.get(name, self.by_name.get(name.rpartition("/")[2]))


def with_masks(
    found: Scan,
    root: Path,
    masks: Path | None,
    *,
    takes_alpha: bool,
    skip_bad: bool,
    check_pixels: bool,
    seen: Seen,
) -> Scan:
    """The scan of a folder `root` with the mask of each example: its file in the folder `masks`, else its alpha channel
    where that is taken. A picture without a mask file is a problem, but counts in full where it is for regularisation.

    Raises:
        DatasetError: `masks_missing`; `dataset_problems`, without `skip_bad`; `dataset_nothing_left` with it.
    """
    if masks is None and not takes_alpha:
        return found
    files = None if masks is None else MaskFiles.found_in(masks)
    examples: list[Example] = []
    problems: list[Problem] = []
    read: dict[str, SeenFile] = {}
    for example in found.examples:
        file = None if files is None else files.of(example.image.relative_to(root).as_posix())
        mask: Mask | None = None
        try:
            if file is not None:
                picture = read_picture(file, seen, decode=check_pixels or skip_bad)
                if not same_shape(example.original, picture.size):
                    sizes = {"width": picture.size.width, "height": picture.size.height}
                    raise BadFileError(file, "mask_shape", **sizes, picture=list(example.original))
                read[str(file)] = picture
                mask = Mask(file, picture.sha256, is_alpha=False)
                example = replace(example, example_hash=_with_mask(example.example_hash, mask))
            elif takes_alpha:
                mask = Mask(example.image, example.image_sha256, is_alpha=True)
            elif not example.is_regularisation:
                raise BadFileError(example.image, "mask_missing", folder=shown(masks or root))
        except BadFileError as error:
            problems.append(error.problem)
            continue
        examples.append(replace(example, mask=mask))
    if problems and not (skip_bad and examples):
        code = "dataset_nothing_left" if skip_bad else "dataset_problems"
        where = {"folder": shown(root)} if skip_bad else {}
        raise DatasetError(code, **where, count=len(problems), problems=as_fields(problems))
    return Scan(tuple(examples), (*found.problems, *problems), found.findings, {**found.seen, **read})


def loss_mask(example: Example, mask: Mask, size: Size) -> NDArray[np.float32]:
    """(height, width) in [0, 1]: the mask cut as the picture, each number the mean over its area.

    Raises:
        BadFileError: `picture_changed`, or what `images.open_mask` raises.
    """
    import numpy as np  # as in `images.pixels`

    image = open_mask(mask)
    # In float32, as the mean of bytes would be rounded to a byte.
    cut = cut_of(image.convert("F"), example, size, Image.Resampling.BOX)
    return np.asarray(cut, dtype=np.float32) / np.float32(255)


def mask_key(example: Example, mask: Mask, size: Size) -> str:
    """A hash of all that the mask of an example depends on, for the cache."""
    parts = [FORMAT, mask.sha256, mask.is_alpha, example.resized, example.bucket, example.crop, size]
    parts += ["mirrored"] if example.is_mirrored else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def same_shape(picture: Size, mask: Size) -> bool:
    """Whether a mask is of the shape of its picture: the same size, or scaled and rounded to whole pixels."""
    off = abs(picture.width * mask.height - picture.height * mask.width)
    return off <= max(*picture, *mask)


def _with_mask(example_hash: str, mask: Mask) -> str:
    """The hash of an example with a file besides its picture and its caption: another mask is another example."""
    return hashlib.sha256(json.dumps([example_hash, mask.sha256]).encode()).hexdigest()


def _name(place: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", place.with_suffix("").as_posix())
