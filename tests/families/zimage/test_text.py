"""The template of Z-Image. `test_family` compares what becomes of captions with the pipeline."""

from pathlib import Path

from lorasmith.families.zimage.text import TEMPLATE
from tests.families.qwen_miniature import write_tokenizer


def test_the_template_has_the_tokens_that_are_reckoned_with(tmp_path: Path) -> None:
    """Qwen's vocabulary has its words as tokens, and so has that of the miniature."""
    write_tokenizer(tmp_path / "tokenizer", TEMPLATE.before + TEMPLATE.after)
    tokenizer = TEMPLATE.tokenizer_from(tmp_path / "tokenizer", source=tmp_path)
    counts = [len(tokenizer(text)["input_ids"]) for text in (TEMPLATE.before, TEMPLATE.after)]
    assert counts == [TEMPLATE.starts, TEMPLATE.ends] and sum(counts) + TEMPLATE.most == 512
