"""Captions in Krea 2's template, with a vocabulary of Qwen's structure. `test_family` compares what becomes of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.families.krea2.text import (
    AFTER,
    BEFORE,
    DROPPED,
    MOST,
    caption_tokens,
    first_unseen_tag,
    text_builder,
    token_ids,
    tokenizer_from,
)
from lorasmith.families.weights import TextSettings
from tests.families.krea2.miniature import TEXT, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    write_tokenizer(folder)
    return tokenizer_from(folder, source=folder)


def test_the_template_is_that_of_the_pipeline(tokenizer: Any) -> None:
    """Qwen's vocabulary has its words as tokens, and so has that of the miniature."""
    from diffusers import Krea2Pipeline

    parts = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "transformer"))
    theirs = Krea2Pipeline(**parts)
    assert theirs.prompt_template_encode_prefix == BEFORE
    assert theirs.prompt_template_encode_suffix == AFTER
    assert theirs.prompt_template_encode_start_idx == DROPPED == len(tokenizer(BEFORE)["input_ids"])
    assert theirs.prompt_template_encode_num_suffix_tokens == 512 - MOST == len(tokenizer(AFTER)["input_ids"])


def test_a_long_caption_is_cut_and_the_template_is_not(tokenizer: Any) -> None:
    after = tokenizer(AFTER)["input_ids"]
    for caption, tokens, length in (("", MOST, 0), ("a, b", MOST, 3), ("a, b, c", 4, 4), ("x " * 900, MOST, MOST)):
        ids = token_ids(tokenizer, caption, tokens=tokens).tolist()
        assert len(ids) == DROPPED + length + 5 and ids[-5:] == after
        assert ids[:DROPPED] == tokenizer(BEFORE)["input_ids"]


def test_what_is_not_seen_of_a_caption_is_named(tokenizer: Any) -> None:
    def unseen(caption: str, tokens: int = MOST) -> str:
        return first_unseen_tag(lambda: tokenizer, caption, tokens=tokens)

    fits = ", ".join("a" for _ in range(MOST // 2))
    assert unseen(fits) == "" and unseen(fits + ", a, b") in ("a", "b")
    assert unseen("a, b, c, d, e", tokens=6) == "d"


def test_settings_limit_the_tokens() -> None:
    assert caption_tokens(TextSettings()) == MOST
    assert caption_tokens(TextSettings(max_tokens=150)) == 150


def test_the_frequencies_of_positions_are_no_weights() -> None:
    """They are computed, not read, and stay float32: nothing may be left on the meta device."""
    encoder = text_builder()({"text_config": {**TEXT["text_config"], "vocab_size": 9}})
    assert all(tensor.is_meta for tensor in encoder.state_dict().values())
    buffers = dict(encoder.named_buffers())
    assert buffers and all(buffer.device.type == "cpu" for buffer in buffers.values())
    expected = 5e6 ** -(torch.arange(0, 8, 2) / 8)
    assert torch.allclose(buffers["rotary_emb.inv_freq"], expected)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match="model_tokenizer"):
        tokenizer_from(tmp_path, source=tmp_path)
