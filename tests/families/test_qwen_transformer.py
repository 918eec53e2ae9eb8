"""Captions of a family with a Qwen text encoder; each family compares the states with its pipeline."""

from pathlib import Path

import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.families import load_family
from lorasmith.families.qwen_transformer import EMBEDS, MASK, QwenTransformer
from lorasmith.families.recognize import recognize
from tests.families.krea2.miniature import make_model
from tests.families.qwen_miniature import write_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def test_texts_of_a_batch_are_padded_to_the_step_of_the_family(folder: Path) -> None:
    family = load_family(recognize(folder))
    assert isinstance(family, QwenTransformer)
    rows = [{EMBEDS: torch.ones(count, 2, 3), "latents": torch.zeros(1)} for count in (3, 65)]
    batch = family.collate(rows)
    assert batch[EMBEDS].shape == (2, 128, 2, 3) and batch[MASK].sum(1).tolist() == [3, 65]
    assert family.conditioning({}, batch).keys() == {EMBEDS, MASK}


def test_a_vocabulary_that_the_encoder_does_not_have_is_refused(folder: Path) -> None:
    (folder / "tokenizer").rename(folder / "theirs")
    write_tokenizer(folder / "tokenizer", f"{QwenTransformer.__name__} 0123456789 " * 9)
    with pytest.raises(ModelError, match="model_tokenizer"):
        load_family(recognize(folder)).tokenize("a red circle")
