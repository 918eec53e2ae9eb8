#!/usr/bin/env bash
# lion-pytorch 0.2.5: asked for `use_triton=True` where triton is not installed, it prints a line and calls exit(). What its
# caller gets is SystemExit with status None, which is success, and which `except Exception` does not see.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/pip" install --quiet --no-deps lion-pytorch==0.2.5
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.util
import sys

import torch
from lion_pytorch import Lion

if importlib.util.find_spec("triton") is not None:
    sys.exit("triton is installed here: nothing can be seen")
try:
    Lion([torch.nn.Parameter(torch.zeros(2))], use_triton=True)
except SystemExit as error:
    print(f"SystemExit, status {error.code!r}")
    if error.code is not None:
        sys.exit("changed: it now ends with a status of its own")
else:
    sys.exit("changed: no SystemExit any more")
PYTHON
