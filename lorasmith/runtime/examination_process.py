"""Prints what a worker would find on this machine, as a JSON object; a process of its own, since it loads torch.

`runtime.examination` starts it in the environment of a worker.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "bitsandbytes", "torchao")
SD15_PARAMETERS = 859_520_964  # of its denoiser; the precision `auto` depends on the size
SMALL_PARAMETERS = 2_000_000


def main() -> int:
    """Prints the facts and returns 0."""
    json.dump(_facts(), sys.stdout)
    return 0


def _facts() -> dict[str, Any]:
    import psutil

    from lorasmith.engine.device import DTYPES, choose_device, choose_precision, environment
    from lorasmith.engine.repeatability import self_check

    device = choose_device("auto", threads=0)
    precisions = {
        name: dict(
            zip(("precision", "reason"), choose_precision("auto", device, denoiser_parameters=size), strict=True)
        )
        for name, size in (("sd15", SD15_PARAMETERS), ("small", SMALL_PARAMETERS))
    }
    checked = sorted({"fp32", *(found["precision"] for found in precisions.values())})
    began = time.perf_counter()
    results = [self_check(device.torch_device, DTYPES[precision]) for precision in checked]
    seconds = time.perf_counter() - began
    differing = None if None in results else tuple(dict.fromkeys(name for found in results for name in found or ()))
    marks = environment(device, checked[0], differing)
    return {
        "packages": {
            "python": platform.python_version(),
            **{name: found for name in PACKAGES if (found := _version(name))},
        },
        "system": platform.platform(),
        "device": str(device.torch_device),
        "device_name": device.name,
        "device_reason": device.reason,
        "driver": _driver(),
        "cuda": marks["cuda"],
        "torch_cpu_capability": marks["cpu"],
        "mkl_mode": marks["mkl_mode"],
        "threads": device.threads,
        "precision": precisions,
        "self_check": marks["self_check"],
        "self_check_seconds": round(seconds, 3),
        "self_check_precisions": checked,
        "memory_total": psutil.virtual_memory().total,
        "memory_free": psutil.virtual_memory().available,
        "device_memory": device.own_memory(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _driver() -> str:
    """Returns the version of NVIDIA's driver; "" if there is none."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            words = file.readline().split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and "." in word), "")


if __name__ == "__main__":
    sys.exit(main())
