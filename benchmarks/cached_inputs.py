"""Seconds and memory that a start needs to read what an earlier run has encoded, for a large set of SDXL's size.

    python -m benchmarks.cached_inputs FOLDER [--examples 1000] [--dtype fp16]

Makes, once, in FOLDER a cache with latents of 1024 px and the two encoders' embeddings of as many captions; then reads
it in a fresh process with the program's own functions, and prints the seconds, the bytes on disk and the bytes of
memory that were added.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from benchmarks.floor import ROOT
from lorasmith.data.cache import CacheKeys, EncoderCache
from lorasmith.data.encode import Encoded, read_cached
from lorasmith.data.types import Example, Offset, Size
from lorasmith.engine.cpu import keep_freed_memory

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
SIDE = 1024  # pixels
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp16", help="of the stored tensors")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    cache = EncoderCache(asked.folder.resolve() / asked.dtype)
    keys = CacheKeys("vae", {"text_encoder": "L", "text_encoder_2": "G"}, {}, DTYPES[asked.dtype])
    examples = [_example(number) for number in range(asked.examples)]
    if asked.read:
        _read(cache, keys, examples)
        return
    for number, example in enumerate(examples):
        if not cache.path("text", keys.text_key(example.caption)).exists():
            _store(cache, keys, example, number)
    command = [sys.executable, "-m", "benchmarks.cached_inputs", *sys.argv[1:], "--read"]
    subprocess.run(command, cwd=ROOT, check=True)


def _example(number: int) -> Example:
    size = Size(SIDE, SIDE)
    words = f"picture {number}"
    return Example(Path(words), words, 1, size, size, size, Offset(0, 0), words, words)


def _store(cache: EncoderCache, keys: CacheKeys, example: Example, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    sizes = {"text_encoder_embeds": (77, 768), "text_encoder_2_embeds": (77, 1280), "pooled": (1280,)}
    text = {name: torch.randn(size, generator=generator).to(keys.dtype) for name, size in sizes.items()}
    latents = torch.randn(4, SIDE // 8, SIDE // 8, generator=generator).to(keys.dtype)
    cache.store("latents", keys.latents_key(example), {"latents": latents})
    cache.store("text", keys.text_key(example.caption), text)


def _read(cache: EncoderCache, keys: CacheKeys, examples: list[Example]) -> None:
    keep_freed_memory()
    process, encoded = psutil.Process(), Encoded(keys, torch.float32)
    before, began = process.memory_info().rss, time.perf_counter()
    missing = read_cached(cache, examples, (), into=encoded)
    seconds, added = time.perf_counter() - began, process.memory_info().rss - before
    assert len(missing) == 0
    on_disk = sum(file.stat().st_size for file in cache.folder.rglob("*.safetensors"))
    tensors = [tensor for part in (encoded.images, encoded.texts) for row in part.values() for tensor in row.values()]
    held = sum(tensor.nbytes for tensor in tensors)
    figures = {"seconds": round(seconds, 2), "disk_mib": on_disk // MIB, "tensors_mib": held // MIB}
    print(json.dumps({**figures, "memory_added_mib": added // MIB, "examples": len(examples)}))


if __name__ == "__main__":
    main()
