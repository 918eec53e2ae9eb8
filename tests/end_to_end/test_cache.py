"""The encoders' work is done once: what is encoded again after a change, counted in real runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch

from lorasmith.demo.miniature import draw_pictures
from lorasmith.runs.events import CacheProgress
from lorasmith.runs.ledger import read_events
from tests.end_to_end.workshop import Outcome, Workshop
from tests.families.unet_miniature import make_model


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    """A folder with a cache of its own."""
    draw_pictures(tmp_path / "lora_train_set", 5, seed=3, size=(64, 64))
    yield Workshop(tmp_path, make_model(tmp_path / "base", size="nano"), monkeypatch)


def encoded(outcome: Outcome) -> int:
    """Pictures and captions that were encoded in this start."""
    return max((event.done for event in outcome.of(CacheProgress)), default=0)


def test_what_is_encoded_again(fresh: Workshop) -> None:
    pictures = fresh.folder / "lora_train_set" / "10_test"
    captions = {path.read_text() for path in pictures.glob("*.txt")}
    first = encoded(fresh.new(1))
    assert first == 5 + len(captions)
    assert encoded(fresh.new(1)) == 0

    (pictures / "picture_000.txt").write_text("a caption that was not there before")
    assert encoded(fresh.new(1)) == 1  # the caption, no picture

    _change(fresh.base_model / "vae" / "diffusion_pytorch_model.safetensors", "decoder.conv_out.bias")
    assert encoded(fresh.new(1)) == 5


def test_a_damaged_file_is_made_again_and_told(fresh: Workshop) -> None:
    fresh.new(1)
    damaged = sorted((fresh.folder / ".lorasmith_cache").rglob("*.safetensors"))[0]
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    outcome = fresh.new(1)
    assert encoded(outcome) == 1
    assert [one.code for one in outcome.warned] == ["cache_damaged"]
    assert damaged.read_bytes() == good
    assert damaged.with_name(damaged.name + ".damaged").exists()


def test_nothing_is_encoded_where_the_text_encoder_is_trained(fresh: Workshop) -> None:
    assert encoded(fresh.new(1, {("adapter", "train_text_encoder"): True})) == 5  # the pictures alone


def test_the_run_folder_holds_no_cache(fresh: Workshop) -> None:
    fresh.new(1)
    assert not [path for path in fresh.run.root.rglob("*cache*")]
    assert read_events(fresh.run.ledger)


def _change(file: Path, name: str) -> None:
    tensors = safetensors.torch.load_file(file)
    tensors[name] = tensors[name] + 1
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
