"""Files of the encoder cache, and the keys that they lie under."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

from lorasmith.data.cache import TEXT, CacheKeys, EncoderCache
from lorasmith.data.types import Example, Offset, Size
from lorasmith.errors import ResourceError


@pytest.fixture
def cache(tmp_path: Path) -> EncoderCache:
    return EncoderCache(tmp_path / "cache")


def test_a_folder_in_the_place_of_a_file_is_set_aside(cache: EncoderCache) -> None:
    cache.path(TEXT, "key").mkdir(parents=True)
    assert cache.load(TEXT, "key") is None
    cache.store(TEXT, "key", {"a": torch.ones(2)})
    assert cache.load(TEXT, "key") is not None


def test_two_runs_that_meet_the_same_damage(cache: EncoderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(TEXT, "key", {"a": torch.ones(2)})
    path = cache.path(TEXT, "key")
    path.write_bytes(b"junk")
    replace = os.replace

    def other_run_first(source: Path, target: Path) -> None:
        replace(source, target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", other_run_first)
    assert cache.load(TEXT, "key") is None
    assert cache.set_aside == []


def test_a_full_disk_leaves_no_file(cache: EncoderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError):
        cache.store(TEXT, "key", {"a": torch.ones(2)})
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


# -- keys and folders ------------------------------------------------------------------------------


def test_keys_depend_on_what_the_bytes_depend_on() -> None:
    example = Example(Path("a"), "words", 1, Size(9, 9), Size(8, 9), Size(8, 8), Offset(0, 0), "sha", "hash")
    keys = CacheKeys("vae", {"text_encoder": "t1", "text_encoder_2": "t2"}, {"clip_skip": 1})
    key = keys.latents_key(example)
    for change in (
        {"image_sha256": "other"},
        {"resized": Size(8, 10)},
        {"bucket": Size(8, 7)},
        {"crop": Offset(0, 1)},
    ):
        assert keys.latents_key(dataclasses.replace(example, **change)) != key
    in_tiles = {size: dataclasses.replace(keys, tile=size).latents_key(example) for size in (64, 7, 6)}
    assert in_tiles[64] == key, "no side is longer"
    assert len({key, *in_tiles.values()}) == 3
    for change in ({"image": Path("b")}, {"caption": "other"}, {"repeats": 5}, {"original": Size(10, 10)}):
        assert keys.latents_key(dataclasses.replace(example, **change)) == key

    text = keys.text_key("words")
    assert keys.text_key("other") != text
    for change, latents_change, text_changes in (
        ({"vae": "other"}, True, False),
        ({"text_settings": {"clip_skip": 2}}, False, True),
        ({"text_settings": {"clip_skip": 1, "max_tokens": 30}}, False, True),
        ({"text_encoders": {"text_encoder": "other", "text_encoder_2": "t2"}}, False, True),
        ({"text_encoders": {"text_encoder": "t1"}}, False, True),
        ({"text_encoders": {"text_encoder_2": "t2", "text_encoder": "t1"}}, False, False),
        ({"dtype": torch.float16}, True, True),
    ):
        changed = dataclasses.replace(keys, **change)
        assert (changed.latents_key(example) != key, changed.text_key("words") != text) == (
            latents_change,
            text_changes,
        )


def test_the_keys_of_caches_that_exist_stay_as_they_are() -> None:
    example = Example(Path("a"), "words", 1, Size(9, 9), Size(8, 9), Size(8, 8), Offset(0, 0), "sha", "hash")
    keys = CacheKeys("v1", {"text_encoder": "t1"}, {"clip_skip": 2})
    assert keys.latents_key(example) == "e14606075d246a3839cef567a263f879a279c1572f9611faae395ce3e8c78173"
    assert keys.text_key("words") == "eb263cd5f18bd2003f291a44df37fe7ea080f1e953de73280d72ee50d41c9018"


def test_tensors_of_any_kind_come_back(cache: EncoderCache) -> None:
    tensors = {
        "half": torch.randn(3, 4).to(torch.bfloat16),
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 4),
        "view": torch.arange(12).reshape(3, 4).T,
    }
    cache.store(TEXT, "key", tensors)
    loaded = cache.load(TEXT, "key")
    assert loaded is not None
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert all(loaded[name].dtype == tensors[name].dtype for name in tensors)
    data = cache.path(TEXT, "key").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert len(header["__metadata__"]["sha256"]) == 64
