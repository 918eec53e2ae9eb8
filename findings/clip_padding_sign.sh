#!/usr/bin/env bash
# transformers 5.23.0, CLIPTokenizer: with "!" as the padding, as SDXL's second tokenizer is published, every "!" of a text becomes
# the padding's number too. The vocabulary has a token of its own for it ("!</w>"), which the same tokenizer gives with any other
# padding, and which OpenCLIP, whose tokenizer SDXL was trained with, gives.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import transformers
from transformers import CLIPTokenizer

letters = [chr(number) for number in range(33, 127)]  # "!" is the first, as in CLIP's vocabulary
ends = "<|startoftext|>", "<|endoftext|>"
vocabulary = {token: number for number, token in enumerate([*letters, *(letter + "</w>" for letter in letters), *ends])}


def numbers(padding: str) -> list[int]:
    folder = Path(sys.argv[1]) / padding.strip("<|>").replace("!", "sign")
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": ends[0], "eos_token": ends[1], "unk_token": ends[1], "pad_token": padding}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)("a!", padding="max_length", max_length=6)["input_ids"]


plain, marked = numbers(ends[1]), numbers("!")
print(f"transformers {transformers.__version__}, 'a!': {plain} padded with the end, {marked} padded with '!'")
if plain[2] != vocabulary["!</w>"] or marked[2] != 0:
    sys.exit("changed: the sign in the text is no longer taken for padding")
PYTHON
