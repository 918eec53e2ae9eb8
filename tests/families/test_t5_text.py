"""T5's tokenizer: numbers of tokens as sentencepiece and the published model make them."""

from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families.t5_text import t5_tokenizer
from lorasmith.families.t5_vocabulary import T5_TOKENS, t5_tokenizer_files

KNOWN = {
    "": [1],
    "a red circle": [3, 9, 1131, 8196, 1],
    "  1girl,  solo, long hair ": [209, 18722, 6, 6729, 6, 307, 1268, 1],
    "\ufb01ne \u2460": [1399, 209, 1],  # a ligature and a circled figure, as their letters
    "\u8c93 cat\nnew": [3, 2, 1712, 126, 1],  # no Chinese
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    for name, text in t5_tokenizer_files().items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_captions_have_t5s_numbers(folder: Path) -> None:
    from_folder, bundled = t5_tokenizer(folder, source=folder), t5_tokenizer(None, source=folder)
    assert len(bundled) == T5_TOKENS and bundled.pad_token_id == 0
    for caption, ids in KNOWN.items():
        assert from_folder(caption)["input_ids"] == bundled(caption)["input_ids"] == ids
    cut = bundled("red " * 600, truncation=True, max_length=512)["input_ids"]
    assert len(cut) == 512 and cut[-1] == 1


def test_a_folder_without_the_vocabulary_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    with pytest.raises(ModelError, match="model_tokenizer"):
        t5_tokenizer(tmp_path, source=tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="model_tokenizer"):
        t5_tokenizer(tmp_path, source=tmp_path)
