"""CLIP's vocabulary as the package carries it."""

import json
import subprocess
import sys

from lorasmith.families import clip_bpe
from lorasmith.families.clip_bpe import CLIP_TOKENS, clip_tokenizer_files, clip_vocabulary


def test_the_vocabulary_is_clips() -> None:
    vocabulary, merges = clip_vocabulary()
    assert len(vocabulary) == CLIP_TOKENS == 49_408
    assert len(merges) == 48_894
    assert sorted(vocabulary.values()) == list(range(49_408))
    assert merges[0] == ("i", "n")
    known = {"!": 0, "a": 64, "!</w>": 256, "a</w>": 320, "cat</w>": 2368, "<|startoftext|>": 49_406}
    assert known.items() <= vocabulary.items()
    assert vocabulary["<|endoftext|>"] == 49_407


def test_every_merge_makes_a_token_of_tokens() -> None:
    vocabulary, merges = clip_vocabulary()
    assert all({first, second, first + second} <= vocabulary.keys() for first, second in merges)


def test_the_files_of_a_tokenizer_hold_the_same() -> None:
    vocabulary, merges = clip_vocabulary()
    files = clip_tokenizer_files()
    assert json.loads(files["vocab.json"]) == vocabulary
    assert files["merges.txt"].splitlines()[1:] == [" ".join(pair) for pair in merges]


def test_the_licence_of_the_merges_lies_beside_them() -> None:
    assert "Permission is hereby granted, free of charge" in (clip_bpe._HERE / "LICENSE").read_text()


def test_it_needs_the_standard_library_only() -> None:
    code = (
        "import sys, lorasmith.families.clip_bpe as clip; clip.clip_vocabulary()\n"
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
