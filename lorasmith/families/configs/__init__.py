"""The small files that a single-file checkpoint leaves out: configs of Stable Diffusion 1.x, and CLIP's vocabulary.

Written here but for the merges in `clip_bpe/`, whose licence lies beside them. Knows no tensor and no library.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

CLIP_TOKENS = 49_408
"""256 bytes, the same at the end of a word, 48,894 merges, the start and the end."""

_MERGES = CLIP_TOKENS - 2 * 256 - 2
_HERE = Path(__file__).parent


def sd15_config(component: str) -> dict[str, Any]:
    """The config of "unet", "vae", "text_encoder", "scheduler" or "tokenizer": a copy of one's own."""
    content: dict[str, Any] = json.loads((_HERE / "sd15" / f"{component}.json").read_text(encoding="utf-8"))
    return content


@cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's tokens with their numbers, and its merges in order (Radford et al. 2021)."""
    packed = (_HERE / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : _MERGES + 1]  # the file goes on; CLIP does not
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = _byte_letters()
    tokens = letters + [letter + "</w>" for letter in letters] + [first + second for first, second in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def clip_tokenizer_files() -> dict[str, str]:
    """The same as the files of a tokenizer folder."""
    vocabulary, merges = clip_vocabulary()
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in merges),
        "tokenizer_config.json": json.dumps(sd15_config("tokenizer")),
    }


def _byte_letters() -> list[str]:
    """A visible letter for every byte: those that print as they are first, then the rest, moved to U+0100 and up."""
    visible = [byte for byte in range(256) if chr(byte).isprintable() and byte not in (0x20, 0xA0, 0xAD)]
    hidden = len(range(256)) - len(visible)
    return [chr(byte) for byte in visible] + [chr(256 + number) for number in range(hidden)]
