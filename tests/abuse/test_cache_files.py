"""Files in the cache that are trouble: set aside and made again, in bounded time and memory; nothing of them runs."""

import os
import pickle
import socket
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lorasmith.data.cache import TEXT, EncoderCache
from lorasmith.errors import ExitCode
from lorasmith.runs.events import Warned
from tests.abuse.payloads import PAYLOADS, as_archive
from tests.end_to_end.workshop import Workshop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kinds of files that Windows has not")
TENSORS = {"a": torch.arange(9.0)}


def header(length: int, text: bytes = b"{}") -> bytes:
    return struct.pack("<Q", length) + text


def plug(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


PUT: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a socket": plug,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a circle": lambda path: path.symlink_to(path.name),
    "a folder": lambda path: path.mkdir(),
    "10 GB of nothing": sparse,
    "a header of 2^60": lambda path: path.write_bytes(header(2**60)),
    "a header that is not all there": lambda path: path.write_bytes(header(10_000)),
    "lists in lists": lambda path: path.write_bytes(header(200_000, b"[" * 200_000)),
    "a tensor beyond the end": lambda path: path.write_bytes(
        header(58, b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,2000]}}'.ljust(58))
    ),
    "a shape whose product wraps": lambda path: path.write_bytes(
        header(90, b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'.ljust(90))
    ),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "an archive of torch": lambda path: torch.save(TENSORS, path),
}


@pytest.mark.parametrize("what", PUT)
def test_it_is_set_aside_and_made_again(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = EncoderCache(tmp_path / "cache")
    path = cache.path(TEXT, "key")
    path.parent.mkdir(parents=True)
    monkeypatch.chdir(path.parent)  # the name of a socket has room for 100 bytes
    PUT[what](path)
    tracemalloc.start()
    assert cache.load(TEXT, "key") is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert cache.set_aside == [path.with_name(path.name + ".damaged")]
    assert not os.path.lexists(path)
    cache.store(TEXT, "key", TENSORS)
    loaded = cache.load(TEXT, "key")
    assert loaded is not None and torch.equal(loaded["a"], TENSORS["a"])


def test_a_link_to_nothing_is_as_good_as_none(tmp_path: Path) -> None:
    cache = EncoderCache(tmp_path / "cache")
    path = cache.path(TEXT, "key")
    path.parent.mkdir(parents=True)
    path.symlink_to("nowhere")
    assert cache.load(TEXT, "key") is None
    cache.store(TEXT, "key", TENSORS)
    assert not path.is_symlink() and cache.load(TEXT, "key") is not None
    assert cache.set_aside == []


def test_a_run_tells_of_each_and_has_the_same_bytes(workshop: Workshop, tmp_path: Path) -> None:
    """All of what it had cached is something else by now: pipes among it, which nobody writes into."""
    (tmp_path / ".lorasmith_cache").unlink()
    workshop.new(2)
    undisturbed = workshop.digest()
    cached = sorted((tmp_path / ".lorasmith_cache").rglob("*.safetensors"))
    payloads = [as_archive(make(tmp_path)) for make in PAYLOADS.values()]
    for number, path in enumerate(cached):
        path.unlink()
        if number == 0:
            os.mkfifo(path)
        else:
            path.write_bytes(payloads[number % len(payloads)])
    outcome = workshop.new(2)
    assert outcome.exit_code == ExitCode.FINISHED
    damaged = [Path(one.fields["path"]) for one in outcome.of(Warned) if one.code == "cache_damaged"]
    assert sorted(damaged) == [path.with_name(path.name + ".damaged") for path in cached]
    assert workshop.digest() == undisturbed
