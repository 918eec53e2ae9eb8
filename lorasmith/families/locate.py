"""Finds models by name: the base model that a user names, checkpoints to offer where none is named, and the CLIP that
pictures are measured with.

Reads names of files, and the headers of those that may be denoisers of other families; else `recognize` tells what the
files are. Needs no torch; goes online only for a hub id.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from lorasmith.errors import ModelError
from lorasmith.families import FAMILIES
from lorasmith.families.recognize import is_of_a_family
from lorasmith.families.weights import INDEXES
from lorasmith.libraries import importing_library

DEMO_MODEL = Path(__file__).resolve().parents[1] / "demo" / "base_model"
CHECKPOINT_SUFFIXES = (".safetensors", ".ckpt")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")

# Files to fetch from a hub repository: its index, then small files and the first kind of weights of which it has all.
_USUAL_COMPONENTS = ("unet", "vae", "text_encoder")
_NOT_TRAINED_ON = ("scheduler", "tokenizer", "t5_tokenizer", "safety_checker", "feature_extractor", "image_encoder")
_WEIGHT_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_WEIGHT_KINDS = (
    tuple(f"{stem}{shard}.safetensors" for stem in _WEIGHT_STEMS for shard in ("", "-*-of-*")),
    tuple(f"{stem}.fp16{shard}.safetensors" for stem in _WEIGHT_STEMS for shard in ("", "-*-of-*")),
    tuple(f"{stem}{shard}.bin" for stem in _WEIGHT_STEMS for shard in ("", "-*-of-*")),
)


def locate(base_model: str, *, near: Path | None) -> Path:
    """Finds the base model: an existing path, else the bundled model, else a hub id, which is fetched.

    `near`: the folder where relative paths start. None: a relative `base_model` is a name, whatever files there are.
    Returns an absolute path.

    Raises:
        ModelError: `base_model_not_found` with a `reason`: "path", "name" (not a hub id either),
            "hub" (no such repository, or no access), "offline" (not reachable, and not in the cache).
    """
    path = expanded(base_model)
    if base_model and (near is not None or path.is_absolute()) and is_there((near or Path()) / path):
        return ((near or Path()) / path).absolute()
    if base_model == "demo":
        return DEMO_MODEL
    if _looks_like_path(base_model):
        raise ModelError("base_model_not_found", base_model=base_model, reason="path")
    if not _HUB_ID.fullmatch(base_model):
        raise ModelError("base_model_not_found", base_model=base_model, reason="name")
    return _fetched(base_model)


def expanded(name: str) -> Path:
    """The path with `~` replaced by the home folder; unchanged where there is no such home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; False where the system accepts no such name."""
    try:
        return path.exists()
    except OSError:
        return False


def _looks_like_path(name: str) -> bool:
    has_suffix = name.lower().endswith(CHECKPOINT_SUFFIXES)
    return has_suffix or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or name[1:2] == ":"


def _fetched(hub_id: str) -> Path:
    """The snapshot of a repository in the hub's cache, fetched as far as needed."""
    cache = Path(os.path.expandvars(expanded(str(_hub_cache(os.environ)))))
    if _is_offline(os.environ) and not is_there(cache / f"models--{hub_id.replace('/', '--')}"):
        # Here, as the library takes long to load, and would find nothing.
        raise ModelError("base_model_not_found", base_model=hub_id, reason="offline")
    with importing_library():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            OfflineModeIsEnabled,
        )

    try:
        components = _components(Path(snapshot_download(hub_id, allow_patterns=list(INDEXES))))
        small = [*INDEXES, *(f"{part}/*.json" for part in (*components, "scheduler")), "tokenizer*/*", "t5_tokenizer/*"]
        for kind in _WEIGHT_KINDS:
            patterns = [*small, *(f"{part}/{name}" for part in components for name in kind)]
            snapshot = Path(snapshot_download(hub_id, allow_patterns=patterns))
            if all(_has_weights(snapshot / part, kind) for part in components):
                return snapshot
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError("base_model_not_found", base_model=hub_id, reason="offline") from error
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError) as error:
        raise ModelError("base_model_not_found", base_model=hub_id, reason="hub") from error
    except OSError as error:  # the connection broke, or the disk is full
        raise ModelError("base_model_not_found", base_model=hub_id, reason="offline") from error
    return snapshot  # incomplete: `recognize` names what is missing


def _components(folder: Path) -> tuple[str, ...]:
    """The components whose weights training needs; the usual components where the index does not name any."""
    try:
        content = json.loads(_index_of(folder))
    except ValueError:
        content = {}
    entries = content.items() if isinstance(content, dict) else ()
    there = (name for name, kind in entries if isinstance(kind, list) and kind[-1:] != [None])  # [library, class]
    return tuple(name for name in there if not name.startswith(_NOT_TRAINED_ON)) or _USUAL_COMPONENTS


def _index_of(folder: Path) -> str:
    """The text of the folder's index; "" where it has none."""
    for name in INDEXES:
        with suppress(OSError, ValueError):
            return (folder / name).read_text(encoding="utf-8")
    return ""


def _has_weights(folder: Path, kind: tuple[str, ...]) -> bool:
    return any(next(folder.glob(name), None) is not None for name in kind)


# -- checkpoints to offer ---------------------------------------------------------------------------------

_USUAL_PLACES = (
    "models/Stable-diffusion",
    "models/checkpoints",
    "Data/Models/StableDiffusion",
)  # last: Stability Matrix
_OF_DENOISERS = (
    "models/diffusion_models",
    "models/unet",
)  # without text encoders and VAE; most of families not trained
_IN_PACKAGES = ("", "ComfyUI", "webui")  # where the packages for Windows of ComfyUI, of Forge and of the WebUI have it
_MAX_FOLDERS = 300  # neighbours searched beside each folder on the way up
_MAX_DEPTH = 2  # folders inside a usual place
_MAX_FOUND = 100


def find_checkpoints(start: Path, environment: Mapping[str, str]) -> list[Path]:
    """Checkpoints in the usual places, nearest first, at most 100: a WebUI's or ComfyUI's `models` in `start`, a folder
    above it, a folder of those or a package for Windows there, and folders of known families in the hub's cache. Only
    files in ComfyUI's folders for denoisers are examined, by their headers."""
    found: dict[Path, None] = {}  # a set that keeps their order
    start = start.absolute()
    for folder in (start, *start.parents):
        here = [
            file
            for neighbour in (folder, *_folders(folder))
            for package in _IN_PACKAGES
            for place in (*_USUAL_PLACES, *_OF_DENOISERS)
            for file in _checkpoints(neighbour / package / place, _MAX_DEPTH)
            if file not in found and (place in _USUAL_PLACES or is_of_a_family(file))
        ]
        found.update(dict.fromkeys(sorted(here)))
    found.update(dict.fromkeys(sorted(_hub_snapshots(_hub_cache(environment)))))
    return list(found)[:_MAX_FOUND]


def _folders(folder: Path) -> list[Path]:
    """The folders inside that are not hidden; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []
    return [folder / name for name in sorted(names)[:_MAX_FOLDERS]]


def _checkpoints(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
    except OSError:
        return
    yield from (folder / name for name in names if name.lower().endswith(CHECKPOINT_SUFFIXES))
    if depth:
        for inside in _folders(folder):
            yield from _checkpoints(inside, depth - 1)


def _is_offline(environment: Mapping[str, str]) -> bool:
    """Whether huggingface_hub must not go online, by its documented variables."""
    wish = environment.get("HF_HUB_OFFLINE") or environment.get("TRANSFORMERS_OFFLINE") or ""
    return wish.upper() in ("1", "ON", "YES", "TRUE")


def _hub_cache(environment: Mapping[str, str]) -> Path:
    """The folder where huggingface_hub keeps its downloads, by its documented variables."""
    if named := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named)
    if home := environment.get("HF_HOME"):
        return Path(home) / "hub"
    caches = environment.get("XDG_CACHE_HOME")
    home_folder = environment.get("HOME") or environment.get("USERPROFILE") or str(Path.home())
    return (Path(caches) if caches else Path(home_folder) / ".cache") / "huggingface" / "hub"


def _hub_snapshots(cache: Path) -> Iterator[Path]:
    """The newest snapshot of each repository that is a folder of a known family."""
    for repository in _folders(cache):
        if not repository.name.startswith("models--"):
            continue
        usable = [snapshot for snapshot in _folders(repository / "snapshots") if _has_known_pipeline(snapshot)]
        if usable:
            yield max(usable, key=lambda snapshot: snapshot.stat().st_mtime_ns)


def _has_known_pipeline(folder: Path) -> bool:
    index = _index_of(folder)
    is_known = any(f'"{pipeline}"' in index for entry in FAMILIES.values() for pipeline in entry.pipelines)
    return is_known and any((folder / part / "config.json").is_file() for part in ("unet", "transformer"))


# -- CLIP for measuring ----------------------------------------------------------------------------

_CLIP_FILES = ("*.json", "*.safetensors")
_CLIP_FOLDER = "clip"


def locate_clip(name: str, *, base_model: Path) -> Path | None:
    """A folder; None where nothing is named and the base model holds no `clip/` (the demo's does).

    Raises:
        ModelError: `clip_model`, there is no such folder or repository, or it cannot be reached.
    """
    if not name:
        beside = base_model / _CLIP_FOLDER
        return beside if (beside / "config.json").is_file() else None
    path = Path(name).expanduser()
    return path if path.is_dir() else _fetched_clip(name)


def _fetched_clip(name: str) -> Path:
    """The snapshot of a hub id: of the cache where it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        try:
            return Path(snapshot_download(name, allow_patterns=list(_CLIP_FILES), local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(snapshot_download(name, allow_patterns=list(_CLIP_FILES)))
    except (HFValidationError, HfHubHTTPError, OSError) as error:  # no such name, or it cannot be reached
        raise ModelError("clip_model", model=name, reason=str(error).partition("\n")[0]) from error
