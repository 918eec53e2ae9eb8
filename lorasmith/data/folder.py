"""Scans a dataset folder: its examples (picture, repeats, caption, cut), its problems and its findings.

Reads only, never writes. Knows nothing of torch, tokens and order; nothing is random here.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from lorasmith.config import CaptionsConfig
from lorasmith.data import captions, findings, images, names, plugins, unused
from lorasmith.data.buckets import Cutting
from lorasmith.data.caption_variants import CaptionRules, settled_caption
from lorasmith.data.files import BadFileError, as_fields, shown
from lorasmith.data.findings import Finding
from lorasmith.data.metadata_files import read_metadata, text_of
from lorasmith.data.seen import Seen, SeenFile, file_facts, unchanged
from lorasmith.data.types import Example, Problem
from lorasmith.data.unused import Layout, Place
from lorasmith.errors import DatasetError
from lorasmith.file_names import is_text, limited_encoding

MAX_REPEATS = 10_000
NOTHING_SEEN: Seen = MappingProxyType({})
AS_WRITTEN = CaptionsConfig()


@dataclass(frozen=True, slots=True)
class Scan:
    """The content of a dataset folder."""

    examples: tuple[Example, ...]  # sorted by path, the same on every machine
    problems: tuple[Problem, ...]  # of files that were left out; without skip_bad there are none
    findings: tuple[Finding, ...]  # about files that are not used, or not as a person may expect
    seen: Seen  # the files of the examples, for a scan that follows


class PictureFolder(NamedTuple):
    """A folder of pictures, and what settings tell of it in place of its name; None: nothing."""

    folder: Path
    repeats: int | None = None
    class_words: str | None = None
    subset: int = 0
    is_regularisation: bool = False
    captioning: CaptionsConfig = AS_WRITTEN
    metadata: Path | None = None  # a file with the names and words of its pictures

    @property
    def takes_subfolders(self) -> bool:
        return self.repeats is None and self.class_words is None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A picture file that is not opened yet."""

    image: Path
    name: str  # relative to the dataset folder
    place: Place
    caption_file: Path | None
    text: str | None = None  # its words, where a metadata file has them


def scan(
    source: PictureFolder,
    cutting: Cutting,
    *,
    trigger_word: str,
    skip_bad: bool,
    check_pixels: bool,
    seen: Seen = NOTHING_SEEN,
) -> Scan:
    """Scans the pictures in a folder itself (1 repeat) and its `N_name` sub-folders (N repeats, class words `name`);
    those in the folder alone where settings tell repeats or class words.

    Without `check_pixels` the headers are trusted, which is enough when the same folder was checked a moment ago; with
    `skip_bad` the pixels are always checked, since two scans must leave out the same pictures. A file that an
    earlier scan has `seen` is read again only if it has changed.

    Raises:
        DatasetError: as `read_metadata`; `dataset_missing`, `dataset_not_folder`, `dataset_unreadable`; `dataset_empty`
            or, where the names of the sub-folders are why, `dataset_folder_names` or `dataset_other_folder`;
            `dataset_problems`, all of them listed, without `skip_bad`; `dataset_nothing_left` with it.
    """
    folder = source.folder
    layout, problems = _layout(source)
    candidates = _candidates(layout, source)
    if not candidates and not problems:
        raise _nothing_found(layout)

    rules = CaptionRules(source.captioning, trigger_word)
    examples = []
    read: dict[str, SeenFile] = {}
    has_more_lines: list[Path] = []
    is_empty: list[Path] = []
    for candidate in candidates:
        text, found = _caption(candidate)
        try:
            picture = read_picture(candidate.image, seen, decode=check_pixels or skip_bad)
        except BadFileError as error:
            found.append(error.problem)
        if found:
            problems += found
            continue
        example = _example(candidate, text.text, settled_caption(text.text, rules), picture, cutting, source)
        if not min(example.bucket):
            problems.append(_too_narrow(example, cutting))
            continue
        if candidate.caption_file is not None and text.has_more_lines and not source.captioning.has_wildcards:
            has_more_lines.append(candidate.caption_file)
        if candidate.caption_file is not None and not text.caption:
            is_empty.append(candidate.caption_file)
        read[str(candidate.image)] = picture
        examples.append(example)

    if problems and not (skip_bad and examples):
        raise _refusal(folder, problems, skip_bad=skip_bad)
    noted = [*unused.of_layout(layout), *_pictures_without_extension(layout)]
    noted += findings.finding("captions_empty", _relative(is_empty, folder))
    noted += findings.finding("caption_more_lines", _relative(has_more_lines, folder))
    noted += findings.of_examples(examples, folder, uncaptioned=_uncaptioned(candidates))
    noted += findings.of_mark(examples, folder, source.captioning.keep_tokens_separator)
    return Scan(tuple(examples), tuple(problems), tuple(noted), read)


def _uncaptioned(candidates: list[_Candidate]) -> frozenset[Path]:
    return frozenset(
        candidate.image for candidate in candidates if candidate.caption_file is None and not candidate.text
    )


def _refusal(folder: Path, problems: list[Problem], *, skip_bad: bool) -> DatasetError:
    listed = as_fields(problems)
    if skip_bad:
        return DatasetError("dataset_nothing_left", folder=shown(folder), count=len(listed), problems=listed)
    return DatasetError("dataset_problems", count=len(listed), problems=listed)


def repeats_in(source: PictureFolder) -> tuple[int, ...]:
    """The repeats of each picture of a folder, by names alone: nothing is opened, so a bad picture counts too.

    Raises:
        DatasetError: as `scan`, where there is no folder or nothing in it is named like a picture.
    """
    layout, problems = _layout(source)
    candidates = _candidates(layout, source)
    if not candidates and not problems:
        raise _nothing_found(layout)
    return tuple(candidate.place.repeats for candidate in candidates)


# -- which files -----------------------------------------------------------------------------------


def _layout(source: PictureFolder) -> tuple[Layout, list[Problem]]:
    """The folders that are used and those that are not, and problems with folders."""
    folder = source.folder
    files, folders = _entries_of_root(folder)
    if source.metadata is not None:
        only = _place(folder, source.repeats or 1, "", ((), ()), source.captioning.extensions)
        return Layout(folder, (only,), (), ignores_names=True), []
    if not source.takes_subfolders:
        words = captions.cleaned(source.class_words or "")
        only = _place(folder, source.repeats or 1, words, (files, ()), source.captioning.extensions)
        return Layout(folder, (only,), (), ignores_names=True), []
    extensions = source.captioning.extensions
    places = [_place(folder, 1, "", (files, folders), extensions)]
    problems: list[Problem] = []
    others: list[str] = []
    for name in folders:
        path = folder / name
        repeats, words = names.parsed_folder(name) or (0, "")
        if repeats > MAX_REPEATS:
            problems.append(Problem(path, "folder_repeats", {"repeats": repeats, "most": MAX_REPEATS}))
        elif repeats:
            try:
                places.append(_place(path, repeats, captions.cleaned(words), unused.listed(path), extensions))
            except OSError as error:
                problems.append(Problem(path, "file_unreadable", {"detail": _reason(error)}))
        else:
            others.append(name)
    return Layout(folder, tuple(places), tuple(others)), problems


def _entries_of_root(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        folder.stat()
        if not folder.is_dir():
            raise DatasetError("dataset_not_folder", folder=shown(folder))
        return unused.listed(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError("dataset_missing", folder=shown(folder)) from None
    except OSError as error:
        raise DatasetError("dataset_unreadable", folder=shown(folder), detail=_reason(error)) from error


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _place(
    path: Path,
    repeats: int,
    words: str,
    entries: tuple[tuple[str, ...], tuple[str, ...]],
    extensions: Sequence[str],
) -> Place:
    files, folders = entries
    readable = names.readable()
    pictures = tuple(file for file in files if names.extension_of(file) in readable)
    return Place(path, repeats, words, files, folders, pictures, names.paired(pictures, files, extensions))


def _candidates(layout: Layout, source: PictureFolder) -> list[_Candidate]:
    """Every picture, sorted by its name in the dataset."""
    if source.metadata is not None:
        return list(_described(source.metadata, layout.places[0], source.captioning))
    found = []
    for place in layout.places:
        for name in place.pictures:
            image = place.path / name
            caption = place.paired.captions.get(name)
            caption_file = None if caption is None else place.path / caption
            found.append(_Candidate(image, image.relative_to(layout.root).as_posix(), place, caption_file))
    return sorted(found, key=lambda candidate: (unicodedata.normalize("NFC", candidate.name), candidate.name))


def _described(metadata: Path, place: Place, captioning: CaptionsConfig) -> Iterator[_Candidate]:
    for name, words in read_metadata(metadata, place.path).items():
        text = text_of(words, captioning.separator, has_wildcards=captioning.has_wildcards)
        yield _Candidate(place.path / name, name, place, None, text)


def _pictures_without_extension(layout: Layout) -> list[Finding]:
    """The finding about pictures in files with no extension or an unknown extension."""
    known = {*names.readable(), *names.UNREADABLE, *names.CAPTIONS, *names.OTHER_WORDS}
    found: list[Path] = []
    for place in layout.places:
        others = (file for file in place.files if names.extension_of(file) not in known)
        unknown = [file for file in others if names.plugin_of(file) is None]
        found += layout.named(place, (file for file in unknown if plugins.begins_like_a_picture(place.path / file)))
    return findings.finding("picture_without_extension", found)


def _nothing_found(layout: Layout) -> DatasetError:
    folder = shown(layout.root)
    meant, holding = unused.meant_folders(layout), unused.folders_with_pictures(layout)
    if meant:
        return DatasetError("dataset_other_folder", folder=folder, meant=shown(layout.root / meant[0]))
    for name in holding:
        if names.right_folder(name)[1] or len(holding) > 1:
            right = shown(Path(names.right_folder(name)[0]))
            return DatasetError("dataset_folder_names", folder=folder, found=shown(Path(name)), right=right)
    if holding:
        return DatasetError("dataset_other_folder", folder=folder, meant=shown(layout.root / holding[0]))
    listed = [{"code": finding.code, "fields": finding.fields} for finding in unused.of_layout(layout)]
    return DatasetError("dataset_empty", folder=folder, types=" ".join(names.readable()), findings=listed)


def _relative(paths: list[Path], root: Path) -> list[Path]:
    return list(dict.fromkeys(path.relative_to(root) for path in paths))


# -- a picture -----------------------------------------------------------------------------------


def _caption(candidate: _Candidate) -> tuple[captions.CaptionText, list[Problem]]:
    """The words of a picture without the trigger word: its caption file's, else the class words; and their problems."""
    words = captions.CaptionText(candidate.place.class_words)
    if not is_text(candidate.name):
        encoding = limited_encoding()
        problem = ("file_name_locale", {"encoding": encoding}) if encoding else ("file_name", {})
        return words, [Problem(candidate.image, *problem)]
    if candidate.text is not None:
        return captions.CaptionText(candidate.text), []
    if candidate.caption_file is None:
        return words, []
    try:
        return captions.read_text(candidate.caption_file), []
    except BadFileError as error:
        return words, [error.problem]


def read_picture(path: Path, seen: Seen, *, decode: bool) -> SeenFile:
    """The facts of a picture file, from an earlier scan where it has not changed since.

    Raises:
        BadFileError: the file is no picture that can be used.
    """
    known = unchanged(path, seen)
    if known is not None:
        return known
    facts = file_facts(path) or (0, 0)  # before it is read, so that a change in between is noticed
    size, sha256 = images.inspect(path, decode=decode)
    return SeenFile(*facts, size, sha256)


def _too_narrow(example: Example, cutting: Cutting) -> Problem:
    width, height = example.original
    return Problem(
        example.image, "picture_under_step", {"width": width, "height": height, "step": cutting.size_multiple}
    )


def _example(
    candidate: _Candidate, text: str, caption: str, picture: SeenFile, cutting: Cutting, source: PictureFolder
) -> Example:
    resized, bucket, crop = cutting.fit(picture.size)
    return Example(
        image=candidate.image,
        caption=caption,
        repeats=candidate.place.repeats,
        original=picture.size,
        resized=resized,
        bucket=bucket,
        crop=crop,
        image_sha256=picture.sha256,
        example_hash=hashlib.sha256(json.dumps([picture.sha256, caption]).encode()).hexdigest(),
        subset=source.subset,
        resampling=cutting.resampling_of(picture.size, resized),
        is_unbucketed=not cutting.has_buckets,
        is_regularisation=source.is_regularisation,
        text=text,
    )
