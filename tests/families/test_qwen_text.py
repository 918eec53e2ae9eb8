"""Captions in a template, with a vocabulary of Qwen's structure; families compare what becomes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.families.krea2.text import TEMPLATE
from lorasmith.families.loading import Build
from lorasmith.families.qwen_text import is_before, qwen3_builder, qwen3_vl_builder, shortened_builder
from lorasmith.families.weights import TextSettings
from tests.families.krea2.miniature import TEXT
from tests.families.qwen_miniature import write_tokenizer

QWEN3 = {"vocab_size": 9, **TEXT["text_config"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    write_tokenizer(folder, TEMPLATE.before + TEMPLATE.after)
    return TEMPLATE.tokenizer_from(folder, source=folder)


def test_a_long_caption_is_cut_and_the_template_is_not(tokenizer: Any) -> None:
    after = tokenizer(TEMPLATE.after)["input_ids"]
    for caption, tokens, length in (
        ("", TEMPLATE.most, 0),
        ("a, b", TEMPLATE.most, 3),
        ("a, b, c", 4, 4),
        ("x " * 900, TEMPLATE.most, TEMPLATE.most),
    ):
        ids = TEMPLATE.token_ids(tokenizer, caption, tokens=tokens).tolist()
        assert len(ids) == TEMPLATE.starts + length + 5 and ids[-5:] == after
        assert ids[: TEMPLATE.starts] == tokenizer(TEMPLATE.before)["input_ids"]


def test_what_is_not_seen_of_a_caption_is_named(tokenizer: Any) -> None:
    def unseen(caption: str, tokens: int = TEMPLATE.most) -> str:
        return TEMPLATE.first_unseen_tag(lambda: tokenizer, caption, tokens=tokens)

    fits = ", ".join("a" for _ in range(TEMPLATE.most // 2))
    assert unseen(fits) == "" and unseen(fits + ", a, b") in ("a", "b")
    assert unseen("a, b, c, d, e", tokens=6) == "d"


def test_settings_limit_the_tokens() -> None:
    assert TEMPLATE.caption_tokens(TextSettings()) == TEMPLATE.most
    assert TEMPLATE.caption_tokens(TextSettings(max_tokens=150)) == 150


@pytest.mark.parametrize("build", [qwen3_builder, qwen3_vl_builder])
def test_the_frequencies_of_positions_are_no_weights(build: Callable[[], Build]) -> None:
    """They are computed, not read, and stay float32: nothing may be left on the meta device."""
    encoder = build()({**QWEN3, "text_config": {**TEXT["text_config"], "vocab_size": 9}})
    assert all(tensor.is_meta for tensor in encoder.state_dict().values())
    buffers = dict(encoder.named_buffers())
    assert buffers and all(buffer.device.type == "cpu" for buffer in buffers.values())
    expected = 5e6 ** -(torch.arange(0, 8, 2) / 8)
    assert torch.allclose(buffers["rotary_emb.inv_freq"], expected)


@pytest.mark.parametrize(("layers", "kept"), [(None, 5), (3, 3), (0, 0)])
def test_what_is_behind_the_last_state_that_is_taken_is_no_part_of_the_encoder(layers: int | None, kept: int) -> None:
    """The final norm in any case: with a whole encoder, too, the last state is taken before it."""
    whole = qwen3_builder()(QWEN3).state_dict().keys()
    encoder = shortened_builder(qwen3_builder, layers)(QWEN3)
    assert encoder.state_dict().keys() == {name for name in whole if is_before(layers, name)}
    assert len(encoder.get_submodule("layers")) == kept and "norm.weight" not in encoder.state_dict()
    states = torch.ones(1, 3, 24)
    assert encoder.get_submodule("norm")(states) is states


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match="model_tokenizer"):
        TEMPLATE.tokenizer_from(tmp_path, source=tmp_path)
