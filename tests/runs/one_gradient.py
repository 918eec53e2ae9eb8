"""The gradient of one micro-batch in a process of its own: `python -m tests.runs.one_gradient RUN MICRO FILE`."""

import sys
from pathlib import Path

import safetensors.torch

from lorasmith.run_folder import RunFolder
from tests.runs.test_gradients import gradient_of
from tests.runs.workshop import load

if __name__ == "__main__":
    found = gradient_of(load(RunFolder(Path(sys.argv[1])), stop_at=4), int(sys.argv[2]))
    safetensors.torch.save_file({"gradient": found}, sys.argv[3])
