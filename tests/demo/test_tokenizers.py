"""The small vocabulary is one that transformers reads."""

from pathlib import Path

from transformers import CLIPTokenizer

from lorasmith.demo.tokenizers import WORDS, own_vocabulary, write_tokenizer


def test_words_are_single_tokens_and_anything_else_is_spelt(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, own_vocabulary())
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, local_files_only=True)
    ids = tokenizer(" ".join(WORDS).upper()).input_ids
    assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == [f"{word}</w>" for word in WORDS]
    assert (ids[0], ids[-1], tokenizer.pad_token_id) == (len(tokenizer) - 2, len(tokenizer) - 1, len(tokenizer) - 1)
    assert len(tokenizer) < 1000
    assert tokenizer.model_max_length == 77
    assert tokenizer.decode(tokenizer("zébra 紅").input_ids, skip_special_tokens=True) == "zébra 紅"
