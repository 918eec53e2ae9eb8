#!/usr/bin/env bash
# LyCORIS 4.1.3: what a LoHa or LoKr module adds to a weight that it is merged into is alpha / rank times what it adds in
# training and in every forward call: `get_weight` has the scale already, and `get_diff_weight` multiplies by it again.
# LoCon does not. With alpha = rank / 2 a merged LoHa has half its strength.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 lycoris-lora==4.1.3
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule

torch.manual_seed(0)
seen = {}
for name, module, extra in (("lora", LoConModule, {}), ("loha", LohaModule, {}), ("lokr", LokrModule, {"factor": 4})):
    layer = torch.nn.Linear(32, 32, bias=False).requires_grad_(False)
    made = module("layer", layer, 1.0, lora_dim=2, alpha=1.0, **extra)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
        x = torch.eye(32)
        in_training = made(x) - layer(x)
        merged = x @ (made.get_merged_weight()[0] - layer.weight).t()
    seen[name] = round(float((merged.norm() / in_training.norm())), 3)
print(f"merged change / change in training, with alpha / rank = 0.5: {seen}")
if seen != {"lora": 1.0, "loha": 0.5, "lokr": 0.5}:
    sys.exit("changed")
PYTHON
