#!/usr/bin/env bash
# torch 2.13.0 (CPU build, Linux, its own libgomp): between parallel operations libgomp's threads spin, and a process whose
# second thread has computed in parallel too spins no more: libgomp counts the threads of both teams, and sleeps at once where
# they outnumber the cores. Seen as voluntary context switches of 2,000 short parallel operations: some dozens before, thousands
# while the other thread lives, some dozens again after it has ended. Needs two cores or more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import os
import resource
import sys
import threading

import torch

cores = len(os.sched_getaffinity(0))
if cores < 2:
    sys.exit("needs two cores")
torch.set_num_threads(cores)
numbers = torch.zeros(1 << 17)


def switches() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    for _ in range(2000):
        numbers.add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before


def second_team(ready: threading.Event, leave: threading.Event) -> None:
    torch.zeros(1 << 17).add_(1)
    ready.set()
    leave.wait()


switches()
alone = switches()
ready, leave = threading.Event(), threading.Event()
thread = threading.Thread(target=second_team, args=(ready, leave))
thread.start()
ready.wait()
crowded = switches()
leave.set()
thread.join()
after = switches()
print(f"torch {torch.__version__}, {cores} threads: {alone} switches alone, {crowded} beside a second team, {after} after it")
if crowded < 2000 or crowded < 2 * max(alone, after):
    sys.exit("changed: a second team no longer makes the threads sleep")
PYTHON
