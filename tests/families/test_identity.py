"""Identities follow the bytes of weights, configs and tokenizers."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from threading import Event

import pytest

from lorasmith.families import identity
from lorasmith.families.headers import read_header
from lorasmith.families.identity import component_sha256, file_sha256, hash_ahead, weights_sha256
from lorasmith.families.recognize import recognize
from tests.families.tiny import UNET


def test_the_identity_follows_the_bytes(miniature, tmp_path: Path) -> None:
    folder = shutil.copytree(miniature.folder, tmp_path / "model")
    before = recognize(miniature.folder)
    assert weights_sha256(recognize(folder)) == weights_sha256(before)
    for component in ("unet", "vae", "text_encoder"):
        changed = shutil.copytree(folder, tmp_path / component)
        flip_last_byte(next((changed / component).glob("*.safetensors")))
        after = recognize(changed)
        assert weights_sha256(after) != weights_sha256(before)
        moved = {
            one for one in ("vae", "text_encoder") if component_sha256(after, one) != component_sha256(before, one)
        }
        assert moved == {component} - {"unet"}


def test_the_identity_of_a_component_inside_a_single_file(miniature, tmp_path: Path) -> None:
    before = recognize(miniature.single)
    for component, prefix in (("vae", "first_stage_model."), ("text_encoder", "cond_stage_model."), ("unet", UNET)):
        copy = shutil.copy(miniature.single, tmp_path / f"{component}.safetensors")
        tensors = read_header(copy).tensors
        flip_byte(
            copy, max(info.end for name, info in tensors.items() if name.startswith(prefix) and info.dtype == "F32") - 1
        )
        after = recognize(copy)
        assert weights_sha256(after) != weights_sha256(before)
        moved = {
            one for one in ("vae", "text_encoder") if component_sha256(after, one) != component_sha256(before, one)
        }
        assert moved == {component} - {"unet"}


def test_the_identity_of_an_encoder_follows_its_config_and_tokenizer(miniature, tmp_path: Path) -> None:
    before = recognize(miniature.folder)
    folder = shutil.copytree(miniature.folder, tmp_path / "model")
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.2}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    after = recognize(folder)
    assert component_sha256(after, "vae") != component_sha256(before, "vae")
    assert component_sha256(after, "text_encoder") != component_sha256(before, "text_encoder")


def test_a_file_that_changes_is_hashed_again(miniature, tmp_path: Path) -> None:
    copy = Path(shutil.copy(miniature.single, tmp_path / "model.safetensors"))
    weights = recognize(copy)
    before = weights_sha256(weights)
    flip_last_byte(copy)
    os.utime(copy, ns=(1, 1))
    assert weights_sha256(weights) != before


def flip_last_byte(path: Path) -> None:
    flip_byte(path, path.stat().st_size - 1)


def flip_byte(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def test_what_is_hashed_ahead_is_hashed_once(miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(shutil.copy(miniature.single, tmp_path / "model.safetensors"))
    hashed, asked = list[Path](), Event()
    hash_whole = identity._whole_sha256

    def counted(path: Path) -> str:
        hashed.append(path)
        assert asked.wait(200)
        return hash_whole(path)

    monkeypatch.setattr(identity, "_whole_sha256", counted)
    weights = recognize(file)
    hash_ahead(weights)
    while not hashed:  # the encoders come first
        asked.wait(0.01)
    asked.set()
    assert weights_sha256(weights) == sha256(file.read_bytes()).hexdigest()
    assert hashed == [file]


def test_a_file_that_could_not_be_hashed_is_hashed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").write_bytes(b"numbers")
    with monkeypatch.context() as context, pytest.raises(OSError, match="gone"):
        context.setattr(identity, "_whole_sha256", _gone)
        file_sha256(tmp_path / "model")
    assert file_sha256(tmp_path / "model") == sha256(b"numbers").hexdigest()


def _gone(path: Path) -> str:
    raise OSError(f"{path} is gone")
