"""The template of Krea 2 and the layers it takes. `test_family` compares what becomes of captions."""

from pathlib import Path

from lorasmith.families.krea2.text import DROPPED, MOST, TEMPLATE
from tests.families.qwen_miniature import write_tokenizer


def test_the_template_is_that_of_the_pipeline(tmp_path: Path) -> None:
    """Qwen's vocabulary has its words as tokens, and so has that of the miniature."""
    from diffusers import Krea2Pipeline

    write_tokenizer(tmp_path / "tokenizer", TEMPLATE.before + TEMPLATE.after)
    tokenizer = TEMPLATE.tokenizer_from(tmp_path / "tokenizer", source=tmp_path)
    parts = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer", "transformer"))
    theirs = Krea2Pipeline(**parts)
    assert theirs.prompt_template_encode_prefix == TEMPLATE.before
    assert theirs.prompt_template_encode_suffix == TEMPLATE.after
    assert theirs.prompt_template_encode_start_idx == DROPPED == len(tokenizer(TEMPLATE.before)["input_ids"])
    ending = len(tokenizer(TEMPLATE.after)["input_ids"])
    assert theirs.prompt_template_encode_num_suffix_tokens == 512 - MOST == ending
