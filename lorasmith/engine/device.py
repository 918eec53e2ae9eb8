"""The machine: which device, which arithmetic, repeatable kernels, memory. The only file that knows these of torch."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorasmith.errors import ConfigError
from lorasmith.libraries import is_memory_error
from lorasmith.processor import read_processor

# Under this, bf16 gains nothing on a CPU with units for it: the step is not bound by matrix products.
CPU_BF16_PARAMETERS = 50_000_000
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Device:
    """Where the run happens, and why there."""

    torch_device: torch.device
    name: str
    reason: str  # asked, first_available, no_accelerator, torch_without_cuda
    threads: int

    @property
    def is_async(self) -> bool:
        """Whether reading a number waits for the device: then losses are read one step later."""
        return self.torch_device.type != "cpu"

    def peak_memory(self) -> int:
        """Bytes: of the device where it has memory of its own, else of this process; 0 where the system tells none."""
        if self.torch_device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.torch_device)
        try:
            import resource
        except ImportError:  # Windows
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def own_memory(self) -> dict[str, int] | None:
        """Bytes `free` and in `total` of a GPU; None where the device uses the computer's memory."""
        if self.torch_device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self.torch_device)
        return {"free": free, "total": total}

    def release_memory(self) -> None:
        """After something large was dropped."""
        gc.collect()
        if self.torch_device.type == "cuda":
            torch.cuda.empty_cache()


def choose_device(wish: str, *, threads: int) -> Device:
    """The device asked for, or with `auto` the first there is of cuda, mps, cpu; sets torch up to repeat itself.

    `threads` is the run's recorded thread count, 0 for a new run: then torch's own choice is kept and returned.

    Raises:
        ConfigError: the device asked for is not there.
    """
    if threads:
        torch.set_num_threads(threads)
    _make_repeatable()
    threads = torch.get_num_threads()
    if wish != "auto":
        return Device(_checked(wish), _name_of(torch.device(wish)), "asked", threads)
    if torch.cuda.is_available():
        return Device(torch.device("cuda"), _name_of(torch.device("cuda")), "first_available", threads)
    if torch.backends.mps.is_available():
        return Device(torch.device("mps"), "mps", "first_available", threads)
    reason = "torch_without_cuda" if _has_nvidia() and torch.version.cuda is None else "no_accelerator"
    return Device(torch.device("cpu"), _name_of(torch.device("cpu")), reason, threads)


def choose_precision(wish: str, device: Device, *, denoiser_parameters: int) -> tuple[str, str]:
    """The precision asked for, and why; with `auto` bf16 where there are units for it, fp16 on older GPUs, else fp32.

    Never decided by a timing: the same machine gives the same answer.
    """
    if wish != "auto":
        return wish, "asked"
    if device.torch_device.type == "cuda":
        if torch.cuda.get_device_capability(device.torch_device) >= (8, 0):
            return "bf16", "gpu_bf16_units"
        return "fp16", "older_gpu"
    if device.torch_device.type == "mps":
        return "fp32", "no_bf16_units"
    if "amx_bf16" in read_processor().flags:
        if denoiser_parameters >= CPU_BF16_PARAMETERS:
            return "bf16", "cpu_bf16_units"
        return "fp32", "small_model"
    return "fp32", "no_bf16_units"


def fingerprint(device: Device, precision: str, differing: tuple[str, ...] | None = ()) -> dict[str, Any]:
    """What the bytes of a run depend on besides its config: a run that continues under another one says so.

    `differing` is what `repeatability.self_check` found.
    """
    packages = ("torch", "diffusers", "transformers", "numpy", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "device": device.name,
        "cuda": torch.version.cuda or "",
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "mkl_mode": os.environ.get("MKL_CBWR", ""),
        "threads": device.threads,
        "precision": precision,
        "self_check": "not_made" if differing is None else ", ".join(differing) or "passed",
    }


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on the CPU torch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or is_memory_error(error)


def seed_model(seed: int) -> None:
    """Seeds what layers draw themselves (dropout), on every device, for one slice of one micro-batch."""
    torch.manual_seed(seed)


def _make_repeatable() -> None:
    """Run to run the same bytes: no kernel is chosen by timing, none adds in an order of its own."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Only costs time: nothing reads what is not written.
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
    return device


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return read_processor().name


def _has_nvidia() -> bool:
    """An NVIDIA driver, told by what it leaves in the file system."""
    windows = Path(os.environ.get("SYSTEMROOT", "")) / "System32" / "nvcuda.dll"
    return Path("/proc/driver/nvidia/version").exists() or (os.name == "nt" and windows.exists())
