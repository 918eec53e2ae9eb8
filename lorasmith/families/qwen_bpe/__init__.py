"""The vocabulary of Qwen3 and Qwen3-VL, which files of weights leave out.

The merges were published by Alibaba Cloud with Qwen2.5 under the Apache License 2.0, which lies beside them, and are
the same in Qwen3; the tokens that were added after them are Qwen3's. Needs the standard library only.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path

from lorasmith.families.clip_bpe import byte_letters

_HERE = Path(__file__).parent
_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_ADDED = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
)


@cache
def qwen_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The tokens of words with their numbers, and the merges in order."""
    lines = gzip.decompress((_HERE / "merges.txt.gz").read_bytes()).decode("utf-8").split("\n")[1:]
    merges = [(first, second) for first, second in (line.split(" ") for line in lines if line)]
    tokens = byte_letters() + [first + second for first, second in merges]
    return {token: number for number, token in enumerate(tokens)}, merges


def qwen_tokenizer_files() -> dict[str, str]:
    """The texts of a tokenizer folder's files, by name."""
    vocabulary, merges = qwen_vocabulary()
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    added = {
        str(len(vocabulary) + number): {"content": token, "special": token in _SPECIAL, **flags}
        for number, token in enumerate((*_SPECIAL, *_ADDED))
    }
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "unk_token": None,
        "model_max_length": 131_072,
    }
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in merges),
        "tokenizer_config.json": json.dumps(config),
    }
