"""The gradient of one micro-batch in a process of its own: `python -m tests.end_to_end.one_gradient RUN MICRO FILE`."""

import sys
from pathlib import Path

import safetensors.torch

from lorasmith.runs.layout import RunFolder
from tests.end_to_end.test_gradients import gradient_of
from tests.end_to_end.workshop import load

if __name__ == "__main__":
    found = gradient_of(load(RunFolder(Path(sys.argv[1])), stop_at=4), int(sys.argv[2]))
    safetensors.torch.save_file({"gradient": found}, sys.argv[3])
