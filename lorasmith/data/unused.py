"""Finds files and folders of a dataset that are not trained on, by names alone: nothing is opened.

Knows which folders are used and which caption file each picture has; does not know how pictures are read.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorasmith.data import names
from lorasmith.data.files import shown
from lorasmith.data.findings import Finding, finding
from lorasmith.runs.layout import RunFolder

MAX_ENTRIES = 50_000  # that are searched below folders that are not used


@dataclass(frozen=True, slots=True)
class Place:
    """A folder whose pictures are used."""

    path: Path
    repeats: int
    class_words: str
    files: tuple[str, ...]
    folders: tuple[str, ...]
    pictures: tuple[str, ...]
    paired: names.Paired


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of a dataset."""

    root: Path
    places: tuple[Place, ...]  # the root first
    others: tuple[str, ...]  # folders in the root that are not used
    ignores_names: bool = False  # the settings tell repeats and class words, and sub-folders are none of its business

    def named(self, place: Place, files: Iterable[str]) -> list[Path]:
        """The files' paths relative to the root."""
        return [(place.path / file).relative_to(self.root) for file in files]


def listed(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of (files, folders), links followed, sorted, without hidden names and those that systems leave behind.

    Raises:
        OSError: the folder cannot be read.
    """
    files: list[str] = []
    folders: list[str] = []
    for name in sorted(entry.name for entry in folder.iterdir()):
        if not names.is_of_system(name):
            (folders if _is_folder(folder / name) else files).append(name)
    return tuple(files), tuple(folders)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a circular link: a file with a problem, if it is named like a picture
        return False


def of_layout(layout: Layout) -> list[Finding]:
    """All findings about files and folders that are not used, or not as their names suggest."""
    found = _of_root(layout)
    found += _of_kinds(layout)
    found += _of_folders(layout)
    found += _of_captions(layout)
    return found


def meant_folders(layout: Layout) -> list[str]:
    """Folders in the root that hold `N_name` folders with pictures, as a dataset does."""
    return [name for name in layout.others if _holds_dataset(layout.root / name)]


def folders_with_pictures(layout: Layout) -> list[str]:
    """Folders in the root that are not used although they hold pictures themselves."""
    return [name for name in layout.others if _own_pictures(layout.root / name)]


# -- pictures --------------------------------------------------------------------------------------


def _of_root(layout: Layout) -> list[Finding]:
    """The finding about a folder `10_name` that is the dataset itself, so that its number has no effect."""
    if (
        layout.ignores_names
        or not layout.places[0].pictures
        or (parsed := names.parsed_folder(layout.root.name)) is None
    ):
        return []
    fields = {"name": shown(Path(layout.root.name)), "above": shown(layout.root.parent), "repeats": parsed[0]}
    return finding("data_one_too_deep", layout.places[0].pictures, **fields)


def _of_kinds(layout: Layout) -> list[Finding]:
    lacking: list[Path] = []
    unreadable: list[Path] = []
    for place in layout.places:
        others = [file for file in place.files if file not in place.pictures]
        lacking += layout.named(place, (file for file in others if names.plugin_of(file) is not None))
        unreadable += layout.named(place, (file for file in others if names.extension_of(file) in names.UNREADABLE))
    found = finding("plugin_missing", lacking, kinds=names.kinds(map(str, lacking)), command=names.INSTALL)
    return found + finding("kind_unreadable", unreadable, kinds=names.kinds(map(str, unreadable)))


def _of_folders(layout: Layout) -> list[Finding]:
    deeper: list[Path] = []
    for place in layout.places[1:]:
        below = (pictures_below(place.path / name) for name in place.folders)
        deeper += [path.relative_to(layout.root) for paths in below for path in paths]
    found = finding("pictures_too_deep", deeper, first=shown(deeper[0].parent) if deeper else "")
    meant = meant_folders(layout)
    by_code: dict[str, list[str]] = {"folder_meant": meant}
    for name in layout.others:
        if name not in meant and next(pictures_below(layout.root / name), None) is not None:
            by_code.setdefault(_why_unused(name), []).append(name)
    for code, folders in by_code.items():
        pictures = sum(1 for name in folders for _ in pictures_below(layout.root / name))
        fields = {} if code == "folder_no_repeats" else _advice(layout, code, folders)
        found += finding(code, folders, pictures=pictures, **fields)
    return found


def _why_unused(name: str) -> str:
    parsed = names.parsed_folder(name)
    if parsed is not None and parsed[0] == 0:
        return "folder_no_repeats"
    return "folder_reversed" if names.right_folder(name)[1] else "folder_unused"


def _advice(layout: Layout, code: str, folders: Sequence[str]) -> dict[str, str]:
    if not folders:
        return {}
    first = folders[0]
    if code == "folder_meant":
        return {"meant": shown(layout.root / first)}
    return {"name": shown(Path(first)), "right": shown(Path(names.right_folder(first)[0]))}


def pictures_below(folder: Path) -> Iterator[Path]:
    """Pictures in a folder and below it, also of kinds that need a plug-in; searches the first MAX_ENTRIES entries, and
    no run's folder."""
    seen = 0
    for place, folders, files in os.walk(folder):
        path = Path(place)
        if _is_of_a_run(path):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not names.is_of_system(name))
        for name in sorted(files):
            if not names.is_of_system(name) and _is_picture(name):
                yield path / name
        seen += len(folders) + len(files)
        if seen > MAX_ENTRIES:
            return


def _is_picture(name: str) -> bool:
    return names.extension_of(name) in names.PICTURES or names.plugin_of(name) is not None


def _own_pictures(folder: Path) -> bool:
    try:
        return not _is_of_a_run(folder) and any(map(_is_picture, listed(folder)[0]))
    except OSError:  # a folder that is not used anyway
        return False


def _holds_dataset(folder: Path) -> bool:
    try:
        numbered = [folder / name for name in listed(folder)[1] if names.parsed_folder(name) is not None]
    except OSError:
        return False
    return not _is_of_a_run(folder) and any(map(_own_pictures, numbered))


def _is_of_a_run(folder: Path) -> bool:
    """Whether a folder holds the samples, backups and curves of a run, which are no pictures to train on."""
    run = RunFolder(folder)
    is_backup = folder.name.endswith("_backup") and any(folder.glob("run_*"))
    return run.ledger.exists() or run.config.exists() or is_backup or folder.name == "training_logs"


# -- captions --------------------------------------------------------------------------------------


def _of_captions(layout: Layout) -> list[Finding]:
    alone: list[Path] = []
    second: list[Path] = []
    shared: list[Path] = []
    elsewhere: list[Path] = []
    others: list[Path] = []
    for place in layout.places:
        captions = place.paired.captions
        lacking = names.common_names(picture for picture in place.pictures if picture not in captions)
        used, not_read = names.common_names(place.pictures), names.common_names(_not_read(place))
        unused = [text for text in place.paired.unused if not names.belongs_to(text, not_read)]
        second += layout.named(place, (text for text in unused if names.belongs_to(text, used)))
        alone += layout.named(place, (text for text in unused if not names.belongs_to(text, used)))
        counts = Counter(captions.values())
        shared += layout.named(place, (picture for picture, caption in captions.items() if counts[caption] > 1))
        others += layout.named(place, _of_other_kind(place, lacking))
        elsewhere += [path.relative_to(layout.root) for path in _captions_in_folders(place, layout, lacking)]
    found = finding("captions_elsewhere", elsewhere, folder=shown(elsewhere[0].parent) if elsewhere else "")
    found += finding("captions_of_other_kind", others, kinds=names.kinds(map(str, others)))
    found += finding("captions_alone", alone)
    found += finding("captions_second", second)
    return found + finding("captions_shared", shared)


def _of_other_kind(place: Place, lacking: frozenset[str]) -> Iterator[str]:
    """Files that may be meant as captions, but have another extension than those that are read."""
    read = {*place.paired.captions.values(), *place.paired.unused}
    for name in place.files:
        is_usual = names.extension_of(name) in names.CAPTIONS and names.belongs_to(name, lacking)
        if names.may_hold_captions(name, lacking) or (is_usual and name not in read):
            yield name


def _not_read(place: Place) -> Iterator[str]:
    """Pictures of kinds that cannot be read; their captions are not without a picture."""
    for name in place.files:
        if names.extension_of(name) in names.UNREADABLE or (name not in place.pictures and names.plugin_of(name)):
            yield name


def _captions_in_folders(place: Place, layout: Layout, lacking: frozenset[str]) -> Iterator[Path]:
    """Caption files, in a folder of their own, for pictures that have none: below the pictures, or in an unused folder
    beside theirs."""
    folders = [place.path / name for name in place.folders if names.parsed_folder(name) is None]
    if place is not layout.places[0]:
        for name in layout.others:
            folders += [layout.root / name, layout.root / name / place.path.name]
    for folder in folders if lacking else []:
        try:
            files = listed(folder)[0]
        except OSError:  # missing or unreadable
            continue
        texts = (file for file in files if names.extension_of(file) in names.CAPTIONS)
        yield from (folder / text for text in texts if names.belongs_to(text, lacking))
