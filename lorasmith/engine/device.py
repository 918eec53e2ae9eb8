"""The machine: device, precision, repeatable kernels and memory.

Apart from what makes a step faster (`cpu`), no other file calls torch about them.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor

from lorasmith.engine.cpu import forms_of_processor
from lorasmith.engine.nvidia import has_kernels, has_usable_fp16, peak_of
from lorasmith.errors import ConfigError
from lorasmith.libraries import is_memory_error
from lorasmith.processor import BF16_PARAMETERS, has_nvidia, read_processor

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MATRIX_SIDE, MATRIX_PRODUCTS = 4096, 5
# Counts changes of what a step computes under the same settings: a run that continues after such a change warns of it.
ARITHMETIC = 2

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a run and the reason for its choice."""

    torch_device: torch.device
    name: str
    reason: str  # asked, first_available, no_accelerator, torch_without_cuda, driver_unusable, card_without_kernels
    threads: int

    @property
    def is_async(self) -> bool:
        """Whether the device computes while Python goes on, so that reading a number waits. Losses are then read a step
        later."""
        return self.torch_device.type != "cpu"

    def sent(self, value: Tensor) -> Tensor:
        """The tensor on this device, itself where it is there. To a GPU it is copied beside the computation, from
        memory that does not move, and nothing waits for it but what uses it."""
        where = self.torch_device
        if value.device.type == where.type:
            return value
        if where.type != "cuda":
            return value.to(where, non_blocking=True)
        copies, computes = _copy_stream(where), torch.cuda.current_stream(where)
        with torch.cuda.stream(copies):
            there = value.pin_memory().to(where, non_blocking=True)
        computes.wait_stream(copies)
        there.record_stream(computes)
        return there

    def pinned(self, value: Tensor) -> Tensor:
        """A copy of a tensor of the CPU from which a GPU can copy by itself."""
        return value.pin_memory() if self.torch_device.type == "cuda" else value

    def read_later(self, values: Tensor) -> Callable[[], list[float]]:
        """A function that returns these numbers, as they are now. It waits for what computes them and for nothing that
        was begun since."""
        if self.torch_device.type != "cuda":
            return values.clone().tolist
        copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
        has_arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        has_arrived.record(torch.cuda.current_stream(self.torch_device))

        def read() -> list[float]:
            has_arrived.synchronize()
            return copy.tolist()

        return read

    def peak_memory(self) -> int:
        """Peak memory in bytes: of a GPU, else of this process."""
        if self.torch_device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.torch_device)
        return _peak_of_process()

    def peak_flops(self, precision: str) -> float:
        """The most floating-point operations in a second that the maker states; 0 where it is not known."""
        if precision not in ("bf16", "fp16"):
            return 0.0
        return peak_of(self.name)

    def own_memory(self) -> dict[str, int] | None:
        """Bytes `free` and `total` of a GPU; None for a device that uses the computer's memory."""
        if self.torch_device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self.torch_device)
        return {"free": free, "total": total}

    def free_memory(self) -> int:
        """Bytes that can still be taken, of a GPU or of the computer."""
        own = self.own_memory()
        return psutil.virtual_memory().available if own is None else own["free"]

    def release_memory(self) -> None:
        """Returns freed memory to the device; called after something large was dropped."""
        gc.collect()
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()


def _peak_of_process() -> int:
    """Bytes. On Linux `ru_maxrss` would count what the program that started this process held at that time."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class HostCopies:
    """Copies from the computer's memory to a device: on a GPU beside its computation."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def host_memory(self, size: int) -> Tensor:
        """(size,) bytes from which a device can copy by itself."""
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._stream is not None)

    def start(self, target: Tensor, source: Tensor) -> Any:
        """Begins a copy, once everything is done that was begun before; returns what `wait` takes."""
        if self._stream is None:
            target.copy_(source)
            return None
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
            target.record_stream(self._stream)  # a copy that nothing has waited for when the memory is freed
            return self._stream.record_event()

    def wait(self, copied: Any) -> None:
        """Has what is begun from now on wait for a copy."""
        if copied is not None:
            torch.cuda.current_stream(self._device).wait_event(copied)


def choose_device(wish: str, *, threads: int) -> Device:
    """The device by its name, or with `auto` the first available of cuda, mps, cpu; has torch use repeatable kernels.

    `threads` is the run's recorded thread count; 0, for a new run, keeps and returns torch's own choice.

    Raises:
        ConfigError: the device is unknown or not available, or this torch was not built for it.
    """
    if threads:
        torch.set_num_threads(threads)
    _make_repeatable()
    threads = torch.get_num_threads()
    if wish != "auto":
        return Device(_checked(wish), _name_of(torch.device(wish)), "asked", threads)
    card = torch.device("cuda")
    can_use_cuda = torch.cuda.is_available()
    if can_use_cuda and _has_code_for(card):
        return Device(card, _name_of(card), "first_available", threads)
    if torch.backends.mps.is_available():
        return Device(torch.device("mps"), "mps", "first_available", threads)
    reason = "card_without_kernels" if can_use_cuda else _why_without_card()
    return Device(torch.device("cpu"), _name_of(torch.device("cpu")), reason, threads)


def choose_precision(wish: str, device: Device, *, denoiser_parameters: int) -> tuple[str, str]:
    """The precision and the reason for it: with `auto` bf16 where there are units for it, fp16 on older GPUs that
    compute with it, else fp32.

    No timing decides, so the same machine gives the same answer.
    """
    if wish != "auto":
        return wish, "asked"
    if device.torch_device.type == "cuda":
        if torch.cuda.get_device_capability(device.torch_device) >= (8, 0):
            return "bf16", "gpu_bf16_units"
        return ("fp16", "older_gpu") if has_usable_fp16(device.name) else ("fp32", "gpu_fp16_nan")
    if device.torch_device.type == "mps":
        return "fp32", "no_bf16_units"
    if read_processor().has_bf16_units:
        if denoiser_parameters >= BF16_PARAMETERS:
            return "bf16", "cpu_bf16_units"
        return "fp32", "small_model"
    return "fp32", "no_bf16_units"


def environment(
    device: Device,
    precision: str,
    differing: tuple[str, ...] | None = (),
    *,
    execution: str = "eager",
    base_precision: str = "auto",
    optimizer_package: str = "",
) -> dict[str, Any]:
    """Facts that the bytes of a run depend on besides its config: libraries, processor, threads, precision.

    Saved with states and events as "fingerprint"; a run that is continued in another environment warns of it.
    `differing` is the result of `repeatability.self_check`. `optimizer_package`: "" where torch has the optimizer.
    """
    packages = ("torch", "diffusers", "transformers", "tokenizers", "numpy", "safetensors", "pillow")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "device": device.name,
        "cuda": torch.version.cuda or "",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "mkl_mode": os.environ.get("MKL_CBWR", ""),
        "onednn_limit": os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", ""),
        "optimizer": _package_version(optimizer_package),
        "threads": device.threads,
        "arithmetic": ARITHMETIC,
        "precision": precision,
        "base_precision": base_precision,
        "execution": execution,
        "cpu_forms": forms_of_processor() if device.torch_device.type == "cpu" else "",
        "self_check": "not_made" if differing is None else ", ".join(differing) or "passed",
    }


def _package_version(package: str) -> str:
    """The package with its version; by its name alone if it was not installed as a package; "" for ""."""
    try:
        return f"{package} {importlib.metadata.version(package)}" if package else ""
    except importlib.metadata.PackageNotFoundError:  # a module of the user's own
        return package


def matrix_flops(device: Device, precision: str) -> float:
    """Floating-point operations in a second of the fastest of several large products of matrices."""
    sides = (MATRIX_SIDE, MATRIX_SIDE)
    left, right = (torch.ones(sides, device=device.torch_device, dtype=DTYPES[precision]) for _ in range(2))
    wait: Callable[[], None] = torch.cuda.synchronize if device.torch_device.type == "cuda" else lambda: None
    seconds = []
    for _ in range(MATRIX_PRODUCTS):
        wait()
        began = time.perf_counter()
        torch.mm(left, right)
        wait()
        seconds.append(time.perf_counter() - began)
    return 2 * MATRIX_SIDE**3 / min(seconds)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on the CPU torch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or is_memory_error(error)


def map_in_batches(
    items: Sequence[T],
    work: Callable[[Sequence[T]], Sequence[R]],
    *,
    kind: Callable[[T], Hashable],
    at_once: int,
    device: Device,
) -> list[R]:
    """Maps `work`, a function of a batch, over items and returns the results in the order of the items.

    A batch holds at most `at_once` items of the same `kind`. When memory runs out, that and all later batches are
    halved.

    Raises:
        RuntimeError, MemoryError: out of memory with a single item; and whatever else `work` raises.
    """
    by_kind: dict[Hashable, list[int]] = {}
    for number, item in enumerate(items):
        by_kind.setdefault(kind(item), []).append(number)
    results: dict[int, R] = {}
    for numbers in by_kind.values():
        while numbers:
            chosen = numbers[:at_once]
            results_of_batch: Sequence[R] | None = None
            try:
                results_of_batch = work([items[number] for number in chosen])
            except (RuntimeError, MemoryError) as error:
                if len(chosen) == 1 or not is_out_of_memory(error):
                    raise
            if results_of_batch is None:  # outside of the handler, so that the memory of the failed attempt is freed
                device.release_memory()
                at_once = max(1, len(chosen) // 2)
                continue
            results.update(zip(chosen, results_of_batch, strict=True))
            numbers = numbers[len(chosen) :]
    return [results[number] for number in range(len(items))]


def seed_model(seed: int) -> None:
    """Seeds the global generators of all devices, from which dropout layers draw, for a slice of a micro-batch."""
    torch.manual_seed(seed)


@contextmanager
def generators_kept(device: Device) -> Iterator[None]:
    """Has the global generators continue after the `with` block as if it had drawn nothing."""
    where = device.torch_device
    with torch.random.fork_rng([where] if where.type == "cuda" else []):
        yield


MAX_COMPILED = 1024
"""Forms of a block that are compiled: sizes of layers times shapes of batches. torch's own limit of 8 would leave the
rest eager in silence."""


@contextmanager
def compiler_settings() -> Iterator[None]:
    """Compiles in the `with` block without timing anything, and without a limit that a run could reach."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch._dynamo
        import torch._inductor.config as inductor

    limits: dict[str, Any] = {"recompile_limit": MAX_COMPILED, "accumulated_recompile_limit": MAX_COMPILED * 64}
    with torch._dynamo.config.patch(**limits), inductor.patch(deterministic=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's, of what it tries and of what torch itself has deprecated
        yield


def compiled_forms() -> int:
    """The number of graphs that torch's compiler has made in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


@cache
def _copy_stream(where: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(where)  # type: ignore[no-untyped-call]


def _make_repeatable() -> None:
    """Has every run give the same bytes: no kernel is chosen by timing, none adds in a varying order."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # As `use_deterministic_algorithms` without its setting for compiled code, which takes half a second to import.
    torch.set_deterministic_debug_mode("error")
    # Filling costs time only: nothing reads memory that was not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward has no deterministic form


def _checked(wish: str) -> torch.device:
    try:
        device = torch.device(wish)
    except RuntimeError:
        raise ConfigError("device_unknown", device=wish) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError("device_unknown", device=wish)
    if device.type == "cuda":
        is_there = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    else:
        is_there = device.type == "cpu" or torch.backends.mps.is_available()
    if not is_there:
        raise ConfigError("device_missing", device=wish)
    if device.type == "cuda" and not _has_code_for(device):
        raise ConfigError("device_without_kernels", device=wish, name=torch.cuda.get_device_name(device))
    return device


def _has_code_for(card: torch.device) -> bool:
    return has_kernels(torch.cuda.get_device_capability(card), torch.cuda.get_arch_list())


def _why_without_card() -> str:
    if not has_nvidia():
        return "no_accelerator"
    if torch.version.cuda is None:
        return "torch_without_cuda"
    return "no_accelerator" if "CUDA_VISIBLE_DEVICES" in os.environ else "driver_unusable"


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return read_processor().name
