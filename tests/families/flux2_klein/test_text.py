"""The template of FLUX.2 klein. `test_family` compares what becomes of captions."""

from pathlib import Path

import pytest

from lorasmith.families.flux2_klein.layout import LENGTH
from lorasmith.families.flux2_klein.text import TEMPLATE, token_ids
from tests.families.flux2_klein.miniature import CHAT_TEMPLATE
from tests.families.qwen_miniature import write_tokenizer


@pytest.mark.parametrize("tokens", [4, TEMPLATE.most])
def test_captions_lose_the_templates_end_only_where_the_text_is_full(tmp_path: Path, tokens: int) -> None:
    words = TEMPLATE.before + TEMPLATE.after
    write_tokenizer(tmp_path / "tokenizer", words, more=("<think>", "</think>"), chat=CHAT_TEMPLATE)
    tokenizer = TEMPLATE.tokenizer_from(tmp_path / "tokenizer", source=tmp_path)
    after = tokenizer(TEMPLATE.after)["input_ids"]
    short, long = (token_ids(tokenizer, caption, tokens=tokens).tolist() for caption in ("a, b", "x " * 600))
    assert short == [*tokenizer(TEMPLATE.before)["input_ids"], *tokenizer("a, b")["input_ids"], *after]
    assert (len(long) == 3 + tokens + 9 and long[-9:] == after) if tokens == 4 else len(long) == LENGTH
