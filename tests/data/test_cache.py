import dataclasses
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from lorasmith.data import cache as cache_module
from lorasmith.data.cache import (
    LATENTS,
    TEXT,
    EncoderCache,
    HoldingCache,
    encode_missing,
    find_missing,
    latents_key,
    load_examples,
    text_key,
)
from lorasmith.data.files import read_whole
from lorasmith.data.folder import scan
from lorasmith.data.types import CachedExample, Example, Offset, Size
from lorasmith.errors import DatasetError, NonFiniteError, ResourceError, TrainerError
from tests.data.drawing import put_picture
from tests.data.fake_encoders import HASHES, Encoders


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "lora_train_set"
    for number in range(4):
        put_picture(folder / f"{number}.png", 96 + 40 * number, 80, number)
        (folder / f"{number}.txt").write_text(f"picture {number}", encoding="utf-8")
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> EncoderCache:
    return EncoderCache(tmp_path / "cache")


def examples_in(folder: Path, resolution: int = 64) -> tuple[Example, ...]:
    return scan(
        folder, resolution=resolution, size_multiple=16, trigger_word="", skip_bad=False, check_pixels=False
    ).examples


def same(first: list[CachedExample], second: list[CachedExample]) -> bool:
    return all(
        torch.equal(one.latents, other.latents)
        and one.conditioning is not None
        and other.conditioning is not None
        and one.conditioning.keys() == other.conditioning.keys()
        and all(torch.equal(one.conditioning[name], other.conditioning[name]) for name in one.conditioning)
        for one, other in zip(first, second, strict=True)
    )


# -- what is encoded again -------------------------------------------------------------------------


def test_a_second_run_encodes_nothing(data: Path, cache: EncoderCache) -> None:
    first, second = Encoders(), Encoders()
    made = first.fill(cache, examples_in(data))
    assert first.counts == (4, 4)
    assert first.progress == [(done, 8) for done in range(1, 9)]
    again = EncoderCache(cache.folder)
    assert len(find_missing(again, examples_in(data), second.by)) == 0
    assert same(second.fill(again, examples_in(data)), made)
    assert second.counts == (0, 0)
    assert second.progress == []
    assert made[0].latents.dtype == torch.float32
    assert made[0].tokens is None


def test_one_caption_changed_encodes_no_picture(data: Path, cache: EncoderCache) -> None:
    Encoders().fill(cache, examples_in(data))
    (data / "2.txt").write_text("other words", encoding="utf-8")
    second = Encoders()
    second.fill(cache, examples_in(data))
    assert second.counts == (0, 1)
    assert second.captions == ["other words"]


def test_one_picture_changed_encodes_one(data: Path, cache: EncoderCache) -> None:
    Encoders().fill(cache, examples_in(data))
    put_picture(data / "2.png", 176, 80, number=99)
    second = Encoders()
    second.fill(cache, examples_in(data))
    assert second.counts == (1, 0)


def test_a_renamed_picture_is_known(data: Path, cache: EncoderCache) -> None:
    Encoders().fill(cache, examples_in(data))
    shutil.move(data / "2.png", data / "renamed.png")
    shutil.move(data / "2.txt", data / "renamed.txt")
    second = Encoders()
    second.fill(cache, examples_in(data))
    assert second.counts == (0, 0)


@pytest.mark.parametrize(
    ("encoders", "counts"),
    [
        (Encoders({"vae": "v2", "text_encoder": "t1"}), (4, 0)),
        (Encoders({"vae": "v1", "text_encoder": "t2"}), (0, 4)),
        (Encoders({"vae": "v1", "text_encoder": "t1", "text_encoder_2": "t1"}), (0, 4)),
    ],
)
def test_another_encoder_encodes_all_of_its_own(
    data: Path, cache: EncoderCache, encoders: Encoders, counts: tuple[int, int]
) -> None:
    Encoders().fill(cache, examples_in(data))
    encoders.fill(cache, examples_in(data))
    assert encoders.counts == counts
    back = Encoders()
    back.fill(cache, examples_in(data))
    assert back.counts == (0, 0)


def test_another_resolution_is_another_picture(data: Path, cache: EncoderCache) -> None:
    Encoders().fill(cache, examples_in(data))
    second = Encoders()
    second.fill(cache, examples_in(data, resolution=80))
    assert second.counts == (4, 0)


def test_equal_pictures_and_captions_are_encoded_once(tmp_path: Path, cache: EncoderCache) -> None:
    for name in ("5_cat/a.png", "5_cat/b.png", "1_cat/c.png"):
        put_picture(tmp_path / "data" / name)
    encoders = Encoders()
    loaded = encoders.fill(cache, examples_in(tmp_path / "data"))
    assert encoders.counts == (1, 1)
    assert loaded[0].latents is loaded[2].latents
    assert loaded[0].conditioning is loaded[1].conditioning


def test_what_was_done_before_an_end_stays_done(data: Path, cache: EncoderCache) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise Interrupted

    first, second = Encoders(), Encoders()
    with pytest.raises(Interrupted):
        encode_missing(
            find_missing(cache, examples_in(data), first.by),
            cache,
            encoded_by=first.by,
            encode_image=first.encode_image,
            encode_caption=first.encode_caption,
            progress=interrupt,
        )
    second.fill(cache, examples_in(data))
    assert second.counts == (2, 4)


def test_a_file_does_not_depend_on_what_else_is_cached(data: Path, tmp_path: Path) -> None:
    whole, single = EncoderCache(tmp_path / "a"), EncoderCache(tmp_path / "b")
    examples = examples_in(data)
    Encoders().fill(whole, examples)
    Encoders().fill(single, examples[2:3])
    key = latents_key(examples[2], "v1")
    assert whole.path(LATENTS, key).read_bytes() == single.path(LATENTS, key).read_bytes()


def test_with_a_trained_text_encoder_there_are_tokens(data: Path, cache: EncoderCache) -> None:
    encoders = Encoders(caches_text=False)
    examples = examples_in(data)
    missing = find_missing(cache, examples, encoders.by)
    assert (len(missing.pictures), missing.captions) == (4, ())
    encode_missing(
        missing,
        cache,
        encoded_by=encoders.by,
        encode_image=encoders.encode_image,
        encode_caption=encoders.encode_caption,
        progress=lambda done, total: None,
    )
    loaded = load_examples(
        cache, examples, encoded_by=encoders.by, tokenize=lambda caption: {"ids": torch.tensor([len(caption)])}
    )
    assert encoders.counts == (4, 0)
    assert all(one.conditioning is None for one in loaded)
    assert loaded[0].tokens is not None
    assert loaded[0].tokens["ids"].tolist() == [len("picture 0")]


def test_each_file_is_read_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none that was just made; what is held is what was stored."""
    reads: Counter[Path] = Counter()

    def counted(path: Path, *, most: int) -> bytes:
        data = read_whole(path, most=most)
        reads[path] += 1
        return data

    monkeypatch.setattr(cache_module, "read_whole", counted)
    examples = examples_in(data)
    made = Encoders().fill(HoldingCache(tmp_path / "cache"), examples)
    assert not reads
    assert same(Encoders().fill(HoldingCache(tmp_path / "cache"), examples), made)
    assert set(reads) == set((tmp_path / "cache").rglob("*.safetensors")) and set(reads.values()) == {1}


@pytest.mark.parametrize("is_stored", [False, True])
def test_text_is_held_in_less_precision_than_it_is_stored(data: Path, tmp_path: Path, is_stored: bool) -> None:
    examples = examples_in(data)
    if is_stored:
        Encoders().fill(EncoderCache(tmp_path / "cache"), examples)
    halved = HoldingCache(
        tmp_path / "cache", text_held=lambda text: {"prompt_embeds": text["prompt_embeds"].bfloat16()}
    )
    for one in Encoders().fill(halved, examples):
        assert one.conditioning is not None
        assert (one.conditioning["prompt_embeds"].dtype, one.latents.dtype) == (torch.bfloat16, torch.float32)
    stored = EncoderCache(tmp_path / "cache").load(TEXT, text_key(examples[0].caption, HASHES, 1))
    assert stored is not None and stored["prompt_embeds"].dtype == torch.float32


# -- damage ----------------------------------------------------------------------------------------


def damages(whole: bytes) -> dict[str, bytes]:
    draw = random.Random(1)
    found = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "short by one": whole[:-1],
        "zeros at the end": whole[:-64] + bytes(64),
        "header of 2**60": b"\0" * 7 + b"\x10" + whole[8:],
        "no hash": whole.replace(b'"sha256"', b'"sha255"'),
        "junk": b"junk" * 100,
        "renamed tensor": whole.replace(b'"latents"', b'"latentz"'),
        "another shape": whole.replace(b"[3,8,8]", b"[8,3,8]"),
    }
    for number in range(40):
        at = draw.randrange(len(whole))
        found[f"flip {number} at {at}"] = whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :]
    return found


def test_a_damaged_file_is_set_aside_and_made_again(data: Path, tmp_path: Path) -> None:
    cache = EncoderCache(tmp_path / "cache")
    put_picture(data / "0.png", 64, 64)
    examples = examples_in(data)[:1]
    made = Encoders().fill(cache, examples)
    path = cache.path(LATENTS, latents_key(examples[0], "v1"))
    whole = path.read_bytes()
    assert made[0].latents.shape == (3, 8, 8)
    for what, damaged in damages(whole).items():
        assert damaged != whole, what
        path.write_bytes(damaged)
        encoders, fresh = Encoders(), EncoderCache(cache.folder)
        assert same(encoders.fill(fresh, examples), made), what
        # a flipped bit in the spaces of the header changes nothing that is read
        harmless = what.startswith("flip") and encoders.counts == (0, 0)
        if not harmless:
            assert encoders.counts == (1, 0), what
            assert fresh.set_aside == [path.with_name(path.name + ".damaged")]
            assert fresh.set_aside[0].read_bytes() == damaged
            assert path.read_bytes() == whole


def test_a_file_under_anothers_name_does_not_count(data: Path, cache: EncoderCache) -> None:
    examples = examples_in(data)
    made = Encoders().fill(cache, examples)
    first, second = (cache.path(LATENTS, latents_key(examples[number], "v1")) for number in (1, 2))
    shutil.copy(first, second)
    encoders = Encoders()
    assert same(encoders.fill(cache, examples), made)
    assert encoders.counts == (1, 0)


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


def test_a_file_lost_after_encoding_is_said(data: Path, cache: EncoderCache) -> None:
    examples = examples_in(data)
    Encoders().fill(cache, examples)
    path = cache.path(LATENTS, latents_key(examples[1], "v1"))
    path.unlink()
    with pytest.raises(TrainerError) as caught:
        load_examples(cache, examples, encoded_by=Encoders().by)
    assert caught.value.code == "cache_lost"
    assert caught.value.fields == {"path": str(path)}


def test_numbers_that_are_not_finite_are_never_stored(data: Path, cache: EncoderCache) -> None:
    encoders = Encoders()
    examples = examples_in(data)
    encoders.encode_image = lambda pixels: torch.full((3, 8, 8), float("nan"))  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError) as caught:
        encoders.fill(cache, examples)
    assert caught.value.code == "encoded_not_finite"
    assert caught.value.fields == {"what": str(examples[0].image)}
    assert not list(cache.folder.rglob("*.safetensors"))

    encoders = Encoders()
    encoders.encode_caption = lambda caption: {"good": torch.ones(2), "bad": torch.tensor([1.0, float("inf")])}  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError):
        encoders.fill(cache, examples)
    assert not (cache.folder / TEXT).exists()


def test_a_picture_broken_since_the_scan_is_a_problem(data: Path, cache: EncoderCache) -> None:
    examples = examples_in(data)
    (data / "1.png").write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        Encoders().fill(cache, examples)
    assert caught.value.code == "dataset_problems"
    assert [one["path"] for one in caught.value.fields["problems"]] == [str(data / "1.png")]


def test_a_full_disk_leaves_no_file(cache: EncoderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError):
        cache.store(TEXT, "key", {"a": torch.ones(2)})
    assert [path for path in cache.folder.rglob("*") if path.is_file()] == []


# -- keys and folders ------------------------------------------------------------------------------


def test_keys_depend_on_what_the_bytes_depend_on() -> None:
    example = Example(Path("a"), "words", 1, Size(9, 9), Size(8, 9), Size(8, 8), Offset(0, 0), "sha", "fingerprint")
    key = latents_key(example, "vae")
    for change in (
        {"image_sha256": "other"},
        {"resized": Size(8, 10)},
        {"bucket": Size(8, 7)},
        {"crop": Offset(0, 1)},
    ):
        assert latents_key(dataclasses.replace(example, **change), "vae") != key
    assert latents_key(example, "other") != key
    for change in ({"image": Path("b")}, {"caption": "other"}, {"repeats": 5}, {"original": Size(10, 10)}):
        assert latents_key(dataclasses.replace(example, **change), "vae") == key

    text = text_key("words", HASHES, 1)
    assert text_key("other", HASHES, 1) != text
    assert text_key("words", HASHES, 2) != text
    assert text_key("words", {**HASHES, "text_encoder": "t2"}, 1) != text
    assert text_key("words", {**HASHES, "vae": "v2"}, 1) == text
    assert text_key("words", dict(reversed(HASHES.items())), 1) == text


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
