"""A CLIP tokenizer with a small vocabulary of its own, for the made models. Knows no model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from lorasmith.families.clip_bpe import clip_vocabulary

# fmt: off
WORDS = (
    "a", "an", "the", "of", "on", "in", "with", "and", "photo", "picture", "drawing", "test", "red", "green", "blue",
    "yellow", "purple", "orange", "white", "black", "gray", "pink", "circle", "square", "triangle", "star", "ring",
    "cross", "shape", "background", "small", "large", "robot", "cat", "dog",
)
# fmt: on
START, END = "<|startoftext|>", "<|endoftext|>"


def own_vocabulary(words: Iterable[str] = WORDS) -> dict[str, str]:
    """vocab.json and merges.txt: all bytes, and each of `words` as one token."""
    pairs = _learned_merges(words)
    letters = list(clip_vocabulary()[0])[:256]  # one for each byte
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in pairs), START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in pairs), ""])
    return {"vocab.json": json.dumps(vocabulary, ensure_ascii=False), "merges.txt": merges}


def write_tokenizer(folder: Path, files: dict[str, str], *, padding: str = END) -> None:
    """A folder that transformers' CLIPTokenizer loads."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "add_prefix_space": False, **special}
    written = files | {
        "tokenizer_config.json": json.dumps(settings, indent=2),
        "special_tokens_map.json": json.dumps(special, indent=2),
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")


def _learned_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """The most frequent pair, again and again, until every word is one token (Sennrich et al. 2016)."""
    spelt = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in spelt for pair in pairwise(word)):
        merges.append(pairs.most_common(1)[0][0])
        spelt = [_merged(word, merges[-1]) for word in spelt]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] += token
        else:
            merged.append(token)
    return merged
