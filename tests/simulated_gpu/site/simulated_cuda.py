"""`torch.cuda` for a simulated GPU: what `card.cpp` computes, with the streams, events and graphs of torch's interface.

Torch asks once, while it is imported, whether there is a GPU: the library is loaded before.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GIB = 2**30
NAME = "NVIDIA Simulated"
RACED = 97  # exit status


def install(library: str) -> None:
    """Loads the library that `card.cpp` was made into, and has `torch.cuda` use it. SIMULATED_GPU_MEMORY is the
    memory of the GPU in bytes, 16 GiB without."""
    folder = Path(str(importlib.util.find_spec("torch").origin)).parent / "lib"
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
    card = ctypes.CDLL(library)
    for name in ("card_memory", "card_peak", "card_record_event"):
        getattr(card, name).restype = ctypes.c_int64
    card.card_limit.argtypes = [ctypes.c_int64]
    card.card_wait_event.argtypes = [ctypes.c_int, ctypes.c_int64]
    card.card_synchronize_event.argtypes = [ctypes.c_int64]
    card.card_record_stream.argtypes = [ctypes.c_void_p, ctypes.c_int]
    memory = int(os.environ.get("SIMULATED_GPU_MEMORY", 16 * GIB))
    card.card_limit(memory)

    atexit.register(_end, card)

    import torch

    made = torch.UntypedStorage.__new__

    def storage(cls: Any, *given: Any, device: Any = None, **named: Any) -> Any:
        """Storage on the GPU too, which the constructor of torch's build for CPUs does not know."""
        if device is None or torch.device(device).type != "cuda":
            return made(cls, *given, **named, **({} if device is None else {"device": device}))
        return torch.empty(given or 0, dtype=torch.uint8, device=device).untyped_storage()

    torch.UntypedStorage.__new__ = staticmethod(storage)

    def record_stream(tensor: Any, stream: Stream) -> None:
        card.card_record_stream(tensor.untyped_storage().data_ptr(), stream.number)

    torch.Tensor.record_stream = record_stream
    for name, value in {**_facts(card, memory), **_streams(card), **_graphs()}.items():
        setattr(torch.cuda, name, value)


def _end(card: Any) -> None:
    """Ends a program in which streams raced with a status that nobody takes for success."""
    if card.card_races():
        sys.stderr.write(f"{card.card_races()} races between streams\n")
        sys.stderr.flush()
        os._exit(RACED)


def _facts(card: Any, memory: int) -> dict[str, Any]:
    """What is known of the device, and its memory."""
    import torch

    def nothing() -> Callable[..., None]:
        """A function that is not needed here: a new one for each name, as torch's compiler tells them apart."""
        return lambda *_, **__: None

    return {
        "_lazy_init": nothing(),
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: NAME,
        "get_device_capability": lambda *_: (9, 0),
        "get_arch_list": lambda: ["sm_90"],
        "mem_get_info": lambda *_: (memory - card.card_memory(), memory),
        "memory_allocated": lambda *_: card.card_memory(),
        "max_memory_allocated": lambda *_: card.card_peak(),
        "reset_peak_memory_stats": lambda *_: card.card_reset_peak(),
        "empty_cache": nothing(),
        "synchronize": lambda *_: card.card_synchronize(),
        "set_device": nothing(),
        # One generator for all: torch seeds it as the CPU's.
        "manual_seed": nothing(),
        "manual_seed_all": nothing(),
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "set_sync_debug_mode": lambda mode: card.card_refuse_waits(int(mode in ("error", 2))),
    }


class Stream:
    """A queue of operations: here all are done when they are called, and `card.cpp` raises where only chance would
    have them done in that order."""

    card: Any = None

    def __init__(self, device: Any = None, *, number: int | None = None, **_: Any) -> None:
        self.device = device
        self.number = self.card.card_new_stream() if number is None else number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)

    def wait_stream(self, other: Stream) -> None:
        self.wait_event(other.record_event())

    def wait_event(self, event: Event) -> None:
        self.card.card_wait_event(self.number, event.number)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.record_event().synchronize()


class Event:
    """A place in a stream."""

    def __init__(self, **_: Any) -> None:
        self.number = 0  # of no event

    def record(self, stream: Stream | None = None) -> None:
        card = Stream.card
        self.number = card.card_record_event(card.card_current_stream() if stream is None else stream.number)

    def synchronize(self) -> None:
        Stream.card.card_synchronize_event(self.number)

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return 0.0


class ChosenDevice:
    """What is called in this block is done on the device: there is one."""

    def __init__(self, _: Any) -> None:
        """As torch's."""

    def __enter__(self) -> None:
        """Nothing changes."""

    def __exit__(self, *_: object) -> None:
        """Nothing changes."""


def _streams(card: Any) -> dict[str, Any]:
    Stream.card = card

    def current(*_: Any) -> Stream:
        return Stream(number=card.card_current_stream())

    @contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        before = card.card_current_stream()
        card.card_set_stream(chosen.number)
        try:
            yield
        finally:
            card.card_set_stream(before)

    return {
        "Stream": Stream,
        "Event": Event,
        "default_stream": lambda *_: Stream(number=0),
        "current_stream": current,
        "set_stream": lambda chosen: card.card_set_stream(chosen.number),
        "stream": stream,
        "device": ChosenDevice,
    }


def _graphs() -> dict[str, Any]:
    """CUDA graphs: `tests/engine/recorded_operations.py`."""

    class CUDAGraph:
        def __init__(self, **_: Any) -> None:
            self.replay: Callable[[], None] | None = None

    @contextmanager
    def graph(target: CUDAGraph, **_: Any) -> Iterator[None]:
        from tests.engine.recorded_operations import Operations, replay_of

        with Operations() as recorder:
            yield
        target.replay = replay_of(recorder.made)

    return {"CUDAGraph": CUDAGraph, "graph": graph, "graph_pool_handle": lambda: (0, 0)}
