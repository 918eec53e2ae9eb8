#!/usr/bin/env bash
# schedulefree 1.4.1, AdamWScheduleFree: `eval()` followed by `train()`, as its documentation has a trainer do around every evaluation
# and checkpoint, does not give the weights back: it interpolates there and back in float32. A run that is evaluated more often ends
# elsewhere. prodigy-plus-schedule-free 2.0.1 does the same.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet schedulefree==1.4.1 prodigy-plus-schedule-free==2.0.1 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import prodigyplus
import schedulefree
import torch

for kind, lr in ((schedulefree.AdamWScheduleFree, 1e-3), (prodigyplus.ProdigyPlusScheduleFree, 1.0)):
    torch.manual_seed(1)
    weight = torch.nn.Parameter(torch.zeros(64, 64))  # as the second matrix of a LoRA begins
    optimizer = kind([weight], lr=lr)
    optimizer.train()
    for _ in range(5):
        weight.grad = torch.randn(64, 64)
        optimizer.step()
    before = weight.detach().clone()
    optimizer.eval()
    optimizer.train()
    changed = int((weight != before).sum())
    print(f"{kind.__name__}: {changed} of {weight.numel()} weights differ after eval() and train()")
    if changed == 0:
        sys.exit("changed: the way back is exact now")
PYTHON
