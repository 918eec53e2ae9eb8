"""Where a CLIP lies that pictures are measured with: what the user named, else the one beside the base model.

Torch-free; goes online only for a hub id that is not in the cache.
"""

from __future__ import annotations

from pathlib import Path

from lorasmith.errors import ModelError

_FILES = ("*.json", "*.safetensors")
_BESIDE = "clip"


def locate_clip(name: str, *, base_model: Path) -> Path | None:
    """A folder; None where nothing is named and the base model holds no `clip/` (the demo's does).

    Raises:
        ModelError: `clip_model`, there is no such folder or repository, or it cannot be reached.
    """
    if not name:
        beside = base_model / _BESIDE
        return beside if (beside / "config.json").is_file() else None
    path = Path(name).expanduser()
    return path if path.is_dir() else _fetched(name)


def _fetched(name: str) -> Path:
    """The snapshot of a hub id: of the cache where it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        try:
            return Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
        except LocalEntryNotFoundError:
            return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except (HFValidationError, HfHubHTTPError, OSError) as error:  # no such name, or it cannot be reached
        raise ModelError("clip_model", model=name, reason=str(error).partition("\n")[0]) from error
