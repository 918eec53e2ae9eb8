"""What is encoded again after a change, what is read, and files of the cache that are damaged."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from lorasmith.data import cache as cache_module
from lorasmith.data.buckets import Cutting
from lorasmith.data.cache import IMAGES, TEXT, EncoderCache, Tensors
from lorasmith.data.files import read_whole
from lorasmith.data.folder import PictureFolder, scan
from lorasmith.data.types import Example
from lorasmith.errors import DatasetError, NonFiniteError
from tests.data.drawing import put_picture
from tests.data.fake_encoders import Encoders


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
        PictureFolder(folder), Cutting(resolution, 16), trigger_word="", skip_bad=False, check_pixels=False
    ).examples


def same(first: list[Tensors], second: list[Tensors]) -> bool:
    return all(
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        for one, other in zip(first, second, strict=True)
    )


def test_a_second_run_encodes_nothing(data: Path, cache: EncoderCache) -> None:
    first, second = Encoders(), Encoders()
    made = first.fill(cache, examples_in(data))
    assert first.counts == (4, 4)
    assert first.progress == [(done, 8) for done in range(1, 9)]
    again = EncoderCache(cache.folder)
    assert len(second.missing(again, examples_in(data))) == 0
    assert same(second.fill(again, examples_in(data)), made)
    assert second.counts == (0, 0)
    assert second.progress == []
    assert {name: tensor.dtype for name, tensor in made[0].items()} == {
        "latents": torch.float32,
        "prompt_embeds": torch.float32,
        "mask": torch.int64,
    }


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
        (Encoders(vae="v2"), (4, 0)),
        (Encoders({"text_encoder": "t2"}), (0, 4)),
        (Encoders({"text_encoder": "t1", "text_encoder_2": "t1"}), (0, 4)),
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
    assert loaded[0]["latents"] is loaded[2]["latents"]
    assert loaded[0]["prompt_embeds"] is loaded[1]["prompt_embeds"]


def test_what_was_done_before_an_end_stays_done(data: Path, cache: EncoderCache) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise Interrupted

    first, second = Encoders(), Encoders()
    with pytest.raises(Interrupted):
        first.fill(cache, examples_in(data), progress=interrupt)
    second.fill(cache, examples_in(data))
    assert second.counts == (2, 4)


def test_a_file_does_not_depend_on_what_else_is_cached(data: Path, tmp_path: Path) -> None:
    whole, single = EncoderCache(tmp_path / "a"), EncoderCache(tmp_path / "b")
    examples = examples_in(data)
    Encoders().fill(whole, examples)
    Encoders().fill(single, examples[2:3])
    key = Encoders().keys.latents_key(examples[2])
    assert whole.path(IMAGES, key).read_bytes() == single.path(IMAGES, key).read_bytes()


def test_no_text_is_cached_where_every_text_encoder_is_trained(data: Path, cache: EncoderCache) -> None:
    encoders = Encoders({})
    assert len(encoders.missing(cache, examples_in(data)).pictures) == 4
    loaded = encoders.fill(cache, examples_in(data), captions=("a prompt",))
    assert encoders.counts == (4, 0)
    assert all(inputs.keys() == {"latents"} for inputs in loaded)


def test_captions_without_a_picture_are_encoded_too(data: Path, cache: EncoderCache) -> None:
    encoders = Encoders()
    encoders.fill(cache, examples_in(data), captions=("", "picture 1", ""))
    assert encoders.captions == [*(f"picture {number}" for number in range(4)), ""]


def test_each_file_is_read_once(data: Path, cache: EncoderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none that was just made: its tensors are the stored ones."""
    reads: Counter[Path] = Counter()

    def counted(path: Path, *, most: int) -> bytes:
        data = read_whole(path, most=most)
        reads[path] += 1
        return data

    monkeypatch.setattr(cache_module, "read_whole", counted)
    made = Encoders().fill(cache, examples_in(data))
    assert not reads
    assert same(Encoders().fill(cache, examples_in(data)), made)
    assert set(reads) == set(cache.folder.rglob("*.safetensors")) and set(reads.values()) == {1}


@pytest.mark.parametrize("is_stored", [False, True])
def test_text_is_kept_in_less_precision_than_it_is_stored(data: Path, cache: EncoderCache, is_stored: bool) -> None:
    examples = examples_in(data)
    if is_stored:
        Encoders().fill(cache, examples)
    for inputs in Encoders(text_dtype=torch.bfloat16).fill(cache, examples):
        assert [inputs[name].dtype for name in ("latents", "prompt_embeds", "mask")] == [
            torch.float32,
            torch.bfloat16,
            torch.int64,
        ]
    stored = cache.load(TEXT, Encoders().keys.text_key(examples[0].caption))
    assert stored is not None and stored["prompt_embeds"].dtype == torch.float32


@pytest.mark.parametrize("is_stored", [False, True])
def test_nothing_takes_more_memory_than_on_disk(data: Path, cache: EncoderCache, is_stored: bool) -> None:
    """A family that stores half precision keeps it in memory too, whatever the denoiser's precision."""
    examples = examples_in(data)
    if is_stored:
        Encoders(cache_dtype=torch.float16).fill(cache, examples)
    for inputs in Encoders(cache_dtype=torch.float16).fill(cache, examples):
        assert [inputs[name].dtype for name in ("latents", "prompt_embeds")] == [torch.float16, torch.float16]


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
    path = cache.path(IMAGES, Encoders().keys.latents_key(examples[0]))
    whole = path.read_bytes()
    assert made[0]["latents"].shape == (3, 8, 8)
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
    first, second = (cache.path(IMAGES, Encoders().keys.latents_key(examples[number])) for number in (1, 2))
    shutil.copy(first, second)
    encoders = Encoders()
    assert same(encoders.fill(cache, examples), made)
    assert encoders.counts == (1, 0)


def test_numbers_that_are_not_finite_are_never_stored(data: Path, cache: EncoderCache) -> None:
    encoders = Encoders()
    examples = examples_in(data)
    encoders.encode_image = lambda pixels: {"latents": torch.full((3, 8, 8), float("nan"))}
    with pytest.raises(NonFiniteError) as caught:
        encoders.fill(cache, examples)
    assert caught.value.code == "encoded_not_finite"
    assert caught.value.fields == {"what": str(examples[0].image)}
    assert not list(cache.folder.rglob("*.safetensors"))

    encoders = Encoders()
    encoders.encode_caption = lambda caption: {"good": torch.ones(2), "bad": torch.tensor([1.0, float("inf")])}
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
