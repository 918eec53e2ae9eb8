"""Examines the machine in a separate process, as a worker would find it: torch is not loaded here."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from lorasmith.processor import read_processor
from lorasmith.runtime.worker_environment import worker_environment

MAX_SECONDS = 120  # torch is read from a slow disk, or a driver does not answer
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")  # those that speed up matrix products


def examine() -> dict[str, Any]:
    """Returns the facts of `runtime.examination_process`; if it fails, `{"failure": its last line}`."""
    import subprocess  # not needed by the screens

    command = [sys.executable, "-P", "-m", "lorasmith.runtime.examination_process"]
    environment = worker_environment(os.environ, read_processor())
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=MAX_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failure": f"no answer within {MAX_SECONDS} s"}
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return {"failure": lines[-1] if lines else f"exit status {done.returncode}"}
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def processor_facts() -> dict[str, Any]:
    """Returns the name and the instruction sets of the CPU."""
    processor = read_processor()
    return {"name": processor.name, "instructions": [name for name in INSTRUCTIONS if name in processor.flags]}
