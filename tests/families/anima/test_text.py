"""The tokens of Anima's captions. `test_family` compares what becomes of them."""

from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.anima.text import qwen_ids, qwen_tokenizer, t5_ids
from lorasmith.families.t5_text import t5_tokenizer
from tests.families.qwen_miniature import write_tokenizer


def test_captions_have_no_template_and_only_t5_has_an_end(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer", "")
    qwen, t5 = qwen_tokenizer(tmp_path / "tokenizer", source=tmp_path), t5_tokenizer(None, source=tmp_path)
    assert qwen.decode(qwen_ids(qwen, "a red circle", 512)) == "a red circle"
    assert t5_ids(t5, "a red circle", 512).tolist() == [3, 9, 1131, 8196, 1]
    assert qwen_ids(qwen, "", 512).tolist() == [] and t5_ids(t5, "", 512).tolist() == [1]
    assert (len(qwen_ids(qwen, "red, " * 9, 4)), t5_ids(t5, "red, " * 9, 2).tolist()) == (4, [1131, 6, 1])
    assert len(t5_ids(t5, "red, " * 900, 512)) == 512


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(ModelError, match="model_tokenizer"):
        qwen_tokenizer(tmp_path, source=tmp_path)
