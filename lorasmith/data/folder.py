"""From a folder to examples: which pictures, how often, with which words, cut how; and all that is wrong with it.

Only looks, never writes. Knows nothing of torch, tokens and order; nothing is random here.
"""

import hashlib
import json
import re
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lorasmith.data import buckets, captions, images
from lorasmith.data.files import BadFileError, as_fields, shown
from lorasmith.data.types import Example, Problem, Size
from lorasmith.errors import DatasetError
from lorasmith.file_names import is_text, limited_encoding

MOST_REPEATS = 10_000

_REPEATS_FIRST = re.compile(r"([0-9]{1,18})_(.*)", re.DOTALL)
_REPEATS_LAST = re.compile(r"(.+)_([0-9]{1,18})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder holds."""

    examples: tuple[Example, ...]  # sorted by path, the same on every machine
    problems: tuple[Problem, ...]  # of what was left out; without skip_bad there are none
    hints: tuple[Problem, ...]  # nothing is wrong, but it may not be what was meant


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder whose pictures are used."""

    folder: Path
    repeats: int
    class_words: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A picture file that was not looked into yet."""

    image: Path
    name: str  # relative to the dataset folder
    place: _Place
    caption_file: Path | None


def scan(
    folder: Path, *, resolution: int, size_multiple: int, trigger_word: str, skip_bad: bool, check_pixels: bool
) -> Scan:
    """Every picture straight in `folder` (1 repeat) and in its `N_name` sub-folders (N repeats, class words `name`).

    Without `check_pixels` the headers are believed, which is enough when the same folder was checked a moment ago; with
    `skip_bad` the pixels are checked always, as two scans must leave out the same pictures.

    Raises:
        DatasetError: `dataset_missing`, `dataset_not_folder`, `dataset_unreadable`; `dataset_empty`, or
            `dataset_folder_names` where the names of the sub-folders are why; `dataset_problems`, all of them listed,
            without `skip_bad`; `dataset_nothing_left` with it.
    """
    candidates, problems, hints = _candidates(folder)
    if not candidates and not problems:
        raise _nothing_found(folder, hints)

    sizes = buckets.buckets(resolution, size_multiple)
    examples = []
    has_more_lines = []
    for candidate in candidates:
        text, found = _caption(candidate)
        try:
            size, sha256 = images.inspect(candidate.image, decode=check_pixels or skip_bad)
        except BadFileError as error:
            found.append(error.problem)
        if found:
            problems += found
            continue
        if text.has_more_lines:
            has_more_lines.append(candidate.caption_file or candidate.image)
        examples.append(_example(candidate, captions.with_trigger(text.caption, trigger_word), size, sha256, sizes))

    if problems and not (skip_bad and examples):
        listed = as_fields(problems)
        if skip_bad:
            raise DatasetError("dataset_nothing_left", folder=shown(folder), count=len(listed), problems=listed)
        raise DatasetError("dataset_problems", count=len(listed), problems=listed)
    if has_more_lines:
        hints.append(Problem(has_more_lines[0], "caption_more_lines", {"count": len(has_more_lines)}))
    return Scan(tuple(examples), tuple(problems), tuple(hints))


def repeats_in(folder: Path) -> tuple[int, ...]:
    """How often each picture of a folder counts, told by names alone: nothing is opened, so a bad picture counts too.

    Raises:
        DatasetError: as `scan`, where there is no folder or nothing in it is named like a picture.
    """
    candidates, problems, hints = _candidates(folder)
    if not candidates and not problems:
        raise _nothing_found(folder, hints)
    return tuple(one.place.repeats for one in candidates)


# -- which files -----------------------------------------------------------------------------------


def _candidates(folder: Path) -> tuple[list[_Candidate], list[Problem], list[Problem]]:
    """(pictures in order, what is wrong with sub-folders, hints about those that are not used)."""
    files, folders = _entries_of_root(folder)
    places, problems, hints = _places(folder, folders)
    found = list(_pictures(folder, _Place(folder, 1, ""), files))
    for place in places:
        try:
            found += _pictures(folder, place, _entries(place.folder)[0])
        except OSError as error:
            problems.append(Problem(place.folder, "file_unreadable", {"detail": _said(error)}))
    found.sort(key=lambda one: (unicodedata.normalize("NFC", one.name), one.name))
    return found, problems, hints


def _entries_of_root(folder: Path) -> tuple[list[str], list[str]]:
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise DatasetError("dataset_not_folder", folder=shown(folder))
        return _entries(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError("dataset_missing", folder=shown(folder)) from None
    except OSError as error:
        raise DatasetError("dataset_unreadable", folder=shown(folder), detail=_said(error)) from error


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of (files, folders), links followed, sorted, without hidden ones."""
    files: list[str] = []
    folders: list[str] = []
    for name in sorted(entry.name for entry in folder.iterdir()):
        if not name.startswith("."):
            (folders if _is_folder(folder / name) else files).append(name)
    return files, folders


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:  # a link to nothing or in a circle: a file with a problem, if it is called like a picture
        return False


def _places(folder: Path, names: list[str]) -> tuple[list[_Place], list[Problem], list[Problem]]:
    """(sub-folders that are used, what is wrong with others, hints about those that hold pictures and are not used)."""
    places: list[_Place] = []
    problems: list[Problem] = []
    hints: list[Problem] = []
    for name in names:
        path = folder / name
        if match := _REPEATS_FIRST.fullmatch(name):
            repeats = int(match[1])
            if repeats > MOST_REPEATS:
                problems.append(Problem(path, "folder_repeats", {"repeats": repeats, "most": MOST_REPEATS}))
            elif repeats:
                places.append(_Place(path, repeats, captions.cleaned(unicodedata.normalize("NFC", match[2]))))
            else:
                hints.append(Problem(path, "folder_no_repeats", {}))
        elif _holds_pictures(path):
            last = _REPEATS_LAST.fullmatch(name)
            right, reason = (f"{last[2]}_{last[1]}", "folder_reversed") if last else (f"1_{name}", "folder_unused")
            hints.append(Problem(path, reason, {"right": shown(Path(right))}))
    return places, problems, hints


def _holds_pictures(folder: Path) -> bool:
    try:
        return any(_is_picture_name(name) for name in _entries(folder)[0])
    except OSError:  # a folder that is not used anyway
        return False


def _is_picture_name(name: str) -> bool:
    return name.lower().endswith(images.EXTENSIONS)


def _pictures(root: Path, place: _Place, names: list[str]) -> Iterator[_Candidate]:
    beside = captions.caption_files(names)
    for name in filter(_is_picture_name, names):
        image = place.folder / name
        caption = captions.find_caption(name, beside)
        caption_file = None if caption is None else place.folder / caption
        yield _Candidate(image, image.relative_to(root).as_posix(), place, caption_file)


def _nothing_found(folder: Path, hints: list[Problem]) -> DatasetError:
    for hint in hints:
        if "right" in hint.fields:
            found = shown(Path(hint.path.name))
            return DatasetError("dataset_folder_names", folder=shown(folder), found=found, right=hint.fields["right"])
    types = ", ".join(images.EXTENSIONS)
    return DatasetError("dataset_empty", folder=shown(folder), types=types)


# -- one picture -----------------------------------------------------------------------------------


def _caption(candidate: _Candidate) -> tuple[captions.CaptionText, list[Problem]]:
    """The words of a picture before the trigger word: its file's, else the class words; or what is wrong with them."""
    words = captions.CaptionText(candidate.place.class_words, has_more_lines=False)
    if not is_text(candidate.name):
        encoding = limited_encoding()
        problem = ("file_name_locale", {"encoding": encoding}) if encoding else ("file_name", {})
        return words, [Problem(candidate.image, *problem)]
    if candidate.caption_file is None:
        return words, []
    try:
        return captions.read_text(candidate.caption_file), []
    except BadFileError as error:
        return words, [error.problem]


def _example(candidate: _Candidate, caption: str, size: Size, sha256: str, sizes: tuple[Size, ...]) -> Example:
    resized, bucket, crop = buckets.fit(size, sizes)
    return Example(
        image=candidate.image,
        caption=caption,
        repeats=candidate.place.repeats,
        original=size,
        resized=resized,
        bucket=bucket,
        crop=crop,
        image_sha256=sha256,
        fingerprint=hashlib.sha256(json.dumps([sha256, caption]).encode()).hexdigest(),
    )
