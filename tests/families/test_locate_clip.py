"""Which CLIP measures: the one named, else the base model's own, else none."""

import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.locate_clip import locate_clip


def clip_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_none_is_named_and_none_is_there(tmp_path: Path) -> None:
    assert locate_clip("", base_model=tmp_path) is None
    (tmp_path / "clip").mkdir()
    assert locate_clip("", base_model=tmp_path) is None
    assert locate_clip("", base_model=tmp_path / "model.safetensors") is None


def test_the_base_model_has_one(tmp_path: Path) -> None:
    own = clip_in(tmp_path / "model" / "clip")
    assert locate_clip("", base_model=tmp_path / "model") == own


def test_the_one_that_is_named_comes_first(tmp_path: Path) -> None:
    clip_in(tmp_path / "model" / "clip")
    other = clip_in(tmp_path / "fashion")
    assert locate_clip(str(other), base_model=tmp_path / "model") == other


def test_a_hub_id_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(name: str, **how: object) -> str:
        asked.append((name, how.get("local_files_only", False)))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert locate_clip("patrickjohncyh/fashion-clip", base_model=tmp_path / "model") == tmp_path
    assert asked == [("patrickjohncyh/fashion-clip", True)]


def test_what_is_neither_is_named(tmp_path: Path) -> None:
    for name in (str(tmp_path / "no where"), "three/part/name"):
        with pytest.raises(ModelError) as caught:
            locate_clip(name, base_model=tmp_path)
        assert (caught.value.code, caught.value.fields["model"]) == ("clip_model", name)


def test_what_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot(name: str, **how: object) -> str:
        raise LocalEntryNotFoundError("offline\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(ModelError) as caught:
        locate_clip("some/clip", base_model=tmp_path)
    assert caught.value.fields["reason"] == "offline"


def test_it_needs_no_torch() -> None:
    code = "import sys, lorasmith.families.locate_clip; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
