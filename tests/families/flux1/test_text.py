"""Captions of FLUX.1. `test_family` compares what becomes of them."""

from pathlib import Path

from lorasmith.families.flux1.text import MOST, first_unseen_tag, t5_ids
from lorasmith.families.t5_text import t5_tokenizer


def test_a_long_caption_is_cut_before_the_end() -> None:
    tokenizer = t5_tokenizer(None, source=Path())
    assert t5_ids(tokenizer, "", tokens=MOST).tolist() == [1]
    long = t5_ids(tokenizer, "red, " * 900, tokens=MOST).tolist()
    assert len(long) == 512 and long[-1] == 1
    assert first_unseen_tag(lambda: tokenizer, "red, blue, green, black", tokens=6) == "black"
    assert first_unseen_tag(lambda: tokenizer, "red, blue, green", tokens=6) == ""
