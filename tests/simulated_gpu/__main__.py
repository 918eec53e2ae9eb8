"""Runs a program with a simulated GPU in place of a CUDA device.

    python -m tests.simulated_gpu pytest -m gpu
    python -m tests.simulated_gpu lorasmith train --new --device cuda --base-model MODEL

Tensors "on the GPU" lie in the computer's memory and are computed by torch's operators for CPUs, so its numbers are not
a GPU's, nor are its times. What is as on a GPU: tensors of two devices do not mix; what the host waits for is known and
can be refused; memory is counted, and runs out; streams race where nothing orders them; operations without a
repeatable form are refused; a captured graph takes no number from Python. SIMULATED_GPU_MEMORY: its bytes, 16 GiB
without. A program in which streams raced ends with status 97.

Needs a build of torch without CUDA, and a compiler of C++20 (CXX, else g++), the first time for some seconds: the
library is kept beside its source.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE = FOLDER / "card.cpp"
HEADERS = (FOLDER / "memory.h", FOLDER / "streams.h")


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    search = [str(FOLDER / "site"), str(FOLDER.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ.update(PYTHONPATH=os.pathsep.join(search), SIMULATED_GPU=str(library()))
    program = shutil.which(sys.argv[1])
    if program is None:
        sys.exit(f"{sys.argv[1]} is not a program")
    os.execv(program, sys.argv[1:])


def library() -> Path:
    """The library made from `card.cpp`; it is made where there is none of these sources for this torch."""
    if (_torch() / "lib" / "libtorch_cuda.so").exists():
        sys.exit("this build of torch has CUDA, which would meet with the simulated one")
    sources = b"".join(path.read_bytes() for path in (SOURCE, *HEADERS))
    content = hashlib.sha256(sources + version("torch").encode()).hexdigest()[:16]
    made = FOLDER / "build" / f"card-{content}.so"
    if not made.exists():
        made.parent.mkdir(exist_ok=True)
        unfinished = made.with_suffix(f".{os.getpid()}")
        subprocess.run([*_command(), "-o", str(unfinished)], check=True)
        unfinished.replace(made)
    return made


def _torch() -> Path:
    return Path(str(importlib.util.find_spec("torch").origin)).parent


def _command() -> list[str]:
    torch = _torch()
    include = torch / "include"
    headers = [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]
    options = ["-std=c++20", "-O1", "-shared", "-fPIC"]
    return [os.environ.get("CXX", "g++"), *options, *headers, str(SOURCE), f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]


if __name__ == "__main__":
    main()
