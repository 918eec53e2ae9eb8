"""CLIP's vocabulary, which single-file checkpoints leave out, and the config of its tokenizer.

The merges were published by OpenAI; their licence lies beside them. Needs the standard library only.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

CLIP_TOKENS = 49_408
"""256 bytes, the same at the end of a word, 48,894 merges, the start and the end."""

_MERGES = CLIP_TOKENS - 2 * 256 - 2
_HERE = Path(__file__).parent


@cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's tokens with their numbers, and its merges in order (Radford et al. 2021)."""
    packed = (_HERE / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : _MERGES + 1]  # the file goes on; CLIP does not
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters] + [first + second for first, second in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def tokenizer_config() -> str:
    """The text of `tokenizer_config.json`."""
    return json.dumps(json.loads((_HERE / "tokenizer_config.json").read_text(encoding="utf-8")))


def clip_tokenizer_files() -> dict[str, str]:
    """The same vocabulary as the files of a tokenizer folder, by name."""
    vocabulary, merges = clip_vocabulary()
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in merges),
        "tokenizer_config.json": tokenizer_config(),
    }


def byte_letters() -> list[str]:
    """A visible letter for every byte: those that print as they are first, then the rest, moved to U+0100 and up."""
    visible = [byte for byte in range(256) if chr(byte).isprintable() and byte not in (0x20, 0xA0, 0xAD)]
    hidden = len(range(256)) - len(visible)
    return [chr(byte) for byte in visible] + [chr(256 + number) for number in range(hidden)]
