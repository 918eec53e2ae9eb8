#!/usr/bin/env bash
# torch 2.13.0 (oneDNN 3.12.0, GNU OpenMP): OMP_THREAD_LIMIT, OMP_DYNAMIC or OMP_MAX_ACTIVE_LEVELS can give a product fewer threads
# than torch has set. oneDNN has divided the product among those that were set: of a linear layer in bfloat16, or in float32 with
# weights in oneDNN's order, a large part is never computed and stays what lay in memory. There is no warning. Needs AVX-512.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/product.py" <<'PYTHON'
import torch
from torch.utils import mkldnn

torch.set_num_threads(2)
torch.manual_seed(0)
inputs, layer = torch.randn(256, 512), torch.nn.Linear(512, 384, bias=False)
layer.weight.data.normal_()
exact = inputs.double() @ layer.weight.double().t()
packed = mkldnn.to_mkldnn(layer)(inputs.to_mkldnn()).to_dense()
plain = torch.nn.functional.linear(inputs.bfloat16(), layer.weight.bfloat16())
print(*(f"{float(((found.double() - exact).abs() > 1).double().mean()):.2f}" for found in (plain, packed)))
PYTHON
for setting in none=1 OMP_THREAD_LIMIT=1 OMP_DYNAMIC=TRUE OMP_MAX_ACTIVE_LEVELS=0; do
    read -r plain packed < <(env OMP_NUM_THREADS=2 "$setting" "$folder/venv/bin/python" -W ignore "$folder/product.py")
    echo "torch 2.13.0, two threads set, $setting: wrong are $plain of a product in bfloat16, $packed in float32 in oneDNN's order"
    case $setting in
        none=1) [[ $plain == 0.00 && $packed == 0.00 ]] || { echo "changed: wrong without a limit"; exit 1; } ;;
        OMP_DYNAMIC=TRUE) ;; # how many threads that leaves depends on the machine's load
        *) [[ $plain != 0.00 && $packed != 0.00 ]] || { echo "changed: right in spite of the limit"; exit 1; } ;;
    esac
done
