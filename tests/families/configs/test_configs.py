"""The small files that the package carries."""

import json
import subprocess
import sys

import pytest

from lorasmith.families.configs import CLIP_TOKENS, clip_tokenizer_files, clip_vocabulary, sd15_config


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


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "scheduler", "tokenizer"])
def test_a_config_is_ones_own_copy(component: str) -> None:
    sd15_config(component)["changed"] = True
    assert "changed" not in sd15_config(component)


def test_the_licence_of_the_merges_lies_beside_them() -> None:
    from lorasmith.families import configs

    folder = configs._HERE / "clip_bpe"
    assert "Permission is hereby granted, free of charge" in (folder / "LICENSE").read_text()


def test_it_needs_the_standard_library_only() -> None:
    code = (
        "import sys, lorasmith.families.configs as c; c.clip_vocabulary(); print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
