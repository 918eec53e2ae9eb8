"""Classifies the files and folders of a dataset by their names alone. Opens nothing.

Knows which kinds of pictures are read, with or without a plug-in of Pillow, which are not, and which files systems
leave behind in every folder.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

PICTURES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf"),
    *(".jpg", ".jpx", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
CAPTIONS = (".txt", ".caption")  # in this order


@dataclass(frozen=True, slots=True)
class Plugin:
    """A package that teaches Pillow a format."""

    module: str
    package: str
    extensions: tuple[str, ...]

    @property
    def is_installed(self) -> bool:
        return find_spec(self.module) is not None


HEIF = Plugin("pillow_heif", "pillow-heif", (".heic", ".heics", ".heif", ".heifs", ".hif"))
JPEG_XL = Plugin("pillow_jxl", "pillow-jxl-plugin", (".jxl",))
PLUGINS = (HEIF, JPEG_XL)
INSTALL = 'pip install "lorasmith[pictures]"'

# Files with pictures that are not read: raw photographs, layers, films, documents, links.
UNREADABLE = frozenset(
    [
        *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw"),
        *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
        *(".afphoto", ".ai", ".clip", ".kra", ".mdp", ".ora", ".procreate", ".psb", ".psd", ".sai", ".sai2", ".xcf"),
        *(".3gp", ".avi", ".avifs", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".webm", ".wmv", ".bpg", ".cur", ".dds", ".emf", ".eps", ".exr", ".hdr", ".icns", ".ico", ".jxr", ".pcx"),
        *(".pdf", ".pfm", ".qoi", ".sgi", ".svg", ".svgz", ".tga", ".wdp", ".wmf", ".xbm", ".xpm"),
        *(".7z", ".gz", ".rar", ".tar", ".zip", ".lnk"),
    ]
)
# Files with words about pictures that no caption is read from.
OTHER_WORDS = frozenset(
    [
        *(".cap", ".captions", ".csv", ".doc", ".docx", ".json", ".jsonl", ".md", ".odt", ".parquet", ".rtf", ".tag"),
        *(".tags", ".text", ".tsv", ".wd14", ".xlsx", ".xml", ".yaml", ".yml"),
    ]
)
_TABLES = frozenset([".csv", ".jsonl", ".parquet", ".tsv", ".xlsx"])
_WORDS_OF_ALL = frozenset(["captions", "dataset", "meta_cap", "meta_clean", "meta_lat", "metadata", "prompts", "tags"])
_NO_CAPTIONS = ("readme", "license", "licence", "copying")

_LEFT_BY_SYSTEMS = frozenset(
    [
        *("__macosx", "__pycache__", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "#recycle", "#snapshot"),
        *("$recycle.bin", "recycler", "lost+found", "system volume information", "network trash folder"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    ]
)
_REPEATS_FIRST = re.compile(r"([0-9]{1,18})_(.*)", re.DOTALL)
_REPEATS_LAST = re.compile(r"(.+)_([0-9]{1,18})", re.DOTALL)
_REPEATS_SOMEHOW = re.compile(r"([0-9]{1,3})\s*[x\u00d7]?\s*[_\s.-]\s*(.*\S)", re.DOTALL)


def is_of_system(name: str) -> bool:
    """Whether the file or folder is hidden, or was left there by a system or a program: ignored silently."""
    return name.startswith(".") or name.casefold() in _LEFT_BY_SYSTEMS or name.startswith("SYNOPHOTO_")


def extension_of(name: str) -> str:
    """The extension in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a name, not a path


def readable() -> tuple[str, ...]:
    """The extensions of pictures that can be read here."""
    return (*PICTURES, *(extension for plugin in PLUGINS if plugin.is_installed for extension in plugin.extensions))


def plugin_of(name: str) -> Plugin | None:
    """The plug-in that the picture needs, by its extension; None where Pillow alone reads it."""
    extension = extension_of(name)
    return next((plugin for plugin in PLUGINS if extension in plugin.extensions), None)


def kinds(names: Iterable[str]) -> str:
    """`.cr2 ×3, .psd`: the extensions, and how many files have each."""
    counted = Counter(map(extension_of, names))
    return ", ".join(
        f"{extension} \u00d7{count}" if count > 1 else extension for extension, count in sorted(counted.items())
    )


def parsed_folder(name: str) -> tuple[int, str] | None:
    """(repeats, class words) of a folder named `N_words`; None for any other name."""
    match = _REPEATS_FIRST.fullmatch(name)
    return None if match is None else (int(match[1]), unicodedata.normalize("NFC", match[2]))


def right_folder(name: str) -> tuple[str, bool]:
    """(the name that the folder should have, whether its name seems to hold a number of repeats in another form)."""
    plain = unicodedata.normalize("NFKC", name).strip()
    if parsed_folder(plain) is not None:
        return plain, True
    if match := _REPEATS_LAST.fullmatch(plain):
        return f"{match[2]}_{match[1]}", True
    if match := _REPEATS_SOMEHOW.fullmatch(plain):
        return f"{match[1]}_{match[2]}", True
    return f"1_{name}", False


# -- captions --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paired:
    """The pictures of a folder and their caption files, by name."""

    captions: Mapping[str, str]  # picture -> caption file; without pictures that have none
    unused: tuple[str, ...]  # caption files that no picture uses


def paired(pictures: Iterable[str], names: Iterable[str], extensions: Sequence[str] = CAPTIONS) -> Paired:
    """Pairs pictures with caption files: `a.txt` before `a.caption`, then `a.png.txt`, for `a.png`. Caption files have
    one of the `extensions`; an earlier extension takes precedence.

    Of the remaining files, a picture without a caption gets the file with its name in another case or composition, with
    a superfluous extension (`A.TXT`, `a.txt.txt`) or with the extension of the picture before it was converted.
    """
    texts = sorted(name for name in names if _caption_extension(name, extensions))
    exact = _by(texts, extensions, lambda stem: unicodedata.normalize("NFC", stem))
    found: dict[str, str] = {}
    pictures = list(pictures)
    for picture in pictures:
        keys = (unicodedata.normalize("NFC", key) for key in (_stem(picture), picture))
        if match := next((exact[key] for key in keys if key in exact), None):
            found[picture] = match
    claimed = set(found.values())
    loose = _by((text for text in texts if text not in claimed), extensions, _loose)
    for picture in pictures:
        if picture not in found and _loose(_stem(picture)) in loose:
            found[picture] = loose[_loose(_stem(picture))]
    claimed = set(found.values())
    return Paired(found, tuple(text for text in texts if text not in claimed and not _is_no_caption(text)))


def common_names(files: Iterable[str]) -> frozenset[str]:
    """The names of files without the parts that differ between a picture and its caption file, for `belongs_to`."""
    return frozenset(_loose(_stem(file)) for file in files)


def belongs_to(name: str, common: frozenset[str]) -> bool:
    """Whether a caption file has the name of a file in `common`, which `common_names` made."""
    return _loose(_stem(name)) in common


def may_hold_captions(name: str, common: frozenset[str]) -> bool:
    """Whether a file that is not read as a caption may be meant as that of such a picture, or of all pictures."""
    if extension_of(name) not in OTHER_WORDS or not common:
        return False
    is_of_all = extension_of(name) in _TABLES or _stem(name).casefold() in _WORDS_OF_ALL
    return is_of_all or belongs_to(name, common)


def _by(names: Iterable[str], extensions: Sequence[str], key: Callable[[str], str]) -> dict[str, str]:
    """The caption file of each stem, of the kind that takes precedence."""
    found: dict[str, str] = {}
    extension = {name: _caption_extension(name, extensions) for name in names}
    for name in sorted(extension, key=lambda name: (extensions.index(extension[name]), name)):
        found.setdefault(key(name[: -len(extension[name])]), name)
    return found


def _caption_extension(name: str, extensions: Sequence[str]) -> str:
    """The extension by which a file is a caption file, which may have several dots; "" where it is none."""
    return next((extension for extension in extensions if name.lower().endswith(extension)), "")


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - a name, not a path


def _loose(stem: str) -> str:
    """The stem without differences that do not matter: case, composition, a second extension."""
    while extension_of(stem) in (*CAPTIONS, *PICTURES) and _stem(stem):
        stem = _stem(stem)
    return unicodedata.normalize("NFC", stem).casefold().strip()


def _is_no_caption(name: str) -> bool:
    return _stem(name).casefold().startswith(_NO_CAPTIONS)
