"""Qwen3's vocabulary as the package carries it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith.errors import ModelError
from lorasmith.families import qwen_bpe
from lorasmith.families.krea2.text import TEMPLATE
from lorasmith.families.qwen_bpe import qwen_tokenizer_files, qwen_vocabulary


def test_the_vocabulary_is_qwens() -> None:
    vocabulary, merges = qwen_vocabulary()
    assert len(vocabulary) == 151_643 and len(merges) == 151_387
    known = {"!": 0, "a": 64, "\u0120\u0120": 256, "hello": 14_990, "system": 8948, "assistant": 77_091}
    assert known.items() <= vocabulary.items()
    assert all({first, second, first + second} <= vocabulary.keys() for first, second in merges)


def test_tokens_that_were_added_have_their_published_numbers() -> None:
    added = json.loads(qwen_tokenizer_files()["tokenizer_config.json"])["added_tokens_decoder"]
    numbers = {entry["content"]: int(number) for number, entry in added.items()}
    known = {"<|endoftext|>": 151_643, "<|im_start|>": 151_644, "<|im_end|>": 151_645, "<|image_pad|>": 151_655}
    assert known.items() <= numbers.items() and (numbers["<think>"], numbers["</think>"]) == (151_667, 151_668)
    assert not added["151668"]["special"] and added["151656"]["special"] and len(added) == 26


def test_it_makes_the_tokenizer_that_templates_are_counted_with(tmp_path: Path) -> None:
    """The template of Krea 2 has 34 tokens before a caption and 5 behind it: its pipeline counts on both."""
    for name, text in qwen_tokenizer_files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    tokenizer = TEMPLATE.tokenizer_from(tmp_path, source=tmp_path)
    assert tokenizer("<|im_start|>system\nhello <think>")["input_ids"] == [151_644, 8948, 198, 14_990, 220, 151_667]
    assert len(tokenizer) == 151_669
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(ModelError):
        TEMPLATE.tokenizer_from(tmp_path, source=tmp_path)


def test_the_licence_of_the_merges_lies_beside_them() -> None:
    assert "Apache License" in (qwen_bpe._HERE / "LICENSE").read_text()


def test_it_needs_the_standard_library_only() -> None:
    code = (
        "import sys, lorasmith.families.qwen_bpe as qwen; qwen.qwen_vocabulary()\n"
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
