"""The template of Qwen-Image 2.1. `test_family` compares what becomes of captions."""

from pathlib import Path

from lorasmith.families.qwen_image21.text import DROPPED, TEMPLATE
from tests.families.qwen_image21.miniature import load_pipeline, make_model


def test_the_template_is_that_of_the_pipeline(tmp_path: Path) -> None:
    """In Qwen's vocabulary, as in the miniature's, the system's part has 14 tokens, "Comprehend" three of them."""
    folder = make_model(tmp_path / "model")
    theirs = load_pipeline(folder)
    assert theirs.prompt_template_t2i.format("a ring") == f"{TEMPLATE.before}a ring{TEMPLATE.after}"
    assert theirs._drop_idx == DROPPED == 14
    tokenizer = TEMPLATE.tokenizer_from(folder / "processor", source=folder)
    system = TEMPLATE.before.partition("<|im_start|>user")[0]
    assert len(tokenizer(system)["input_ids"]) == DROPPED
