#!/usr/bin/env bash
# torch 2.13.0: torch._int_mm on a CPU multiplies 8-bit integers by oneDNN. With the instructions of processors without VNNI
# (AVX2, or the first AVX-512) oneDNN limits the sum of two neighbouring products to 16 bits, so that the sums of large
# numbers are too small, without a warning. ONEDNN_MAX_CPU_ISA has a newer processor use those instructions.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/sums.py" <<'PYTHON'
import torch

exact = []
for largest in (90, 127):
    numbers = torch.full((32, 64), largest, dtype=torch.int8)
    sums = torch._int_mm(numbers, numbers.t())
    assert sums.dtype == torch.int32 and bool((sums == sums[0, 0]).all())
    exact.append(f"{int(sums[0, 0])} for {64 * largest**2}")
print(", ".join(exact))
PYTHON
avx2=$(ONEDNN_MAX_CPU_ISA=AVX2 "$folder/venv/bin/python" "$folder/sums.py")
avx512=$(ONEDNN_MAX_CPU_ISA=AVX512_CORE "$folder/venv/bin/python" "$folder/sums.py")
vnni=$(ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI "$folder/venv/bin/python" "$folder/sums.py")
echo "torch 2.13.0, _int_mm of 64 products of 90 * 90 and of 127 * 127, on a CPU with AVX-512 and VNNI:"
echo "AVX2: $avx2"
echo "AVX-512 without VNNI: $avx512"
echo "with VNNI: $vnni"
wrong="311264 for 518400, 8160 for 1032256"
[[ $avx2 == "$wrong" && $avx512 == "$wrong" && $vnni == "518400 for 518400, 1032256 for 1032256" ]] || { echo "changed"; exit 1; }
