#!/usr/bin/env bash
# diffusers 0.42.1, Z-Image: of a LoRA in kohya's names the layers of the blocks are loaded and those at the ends of the network are
# not, since "x_embedder" and "final_layer" are taken apart at the underscore. There is a warning and no error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet diffusers==0.42.1 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import diffusers
import torch
from diffusers import ZImageTransformer2DModel
from diffusers.loaders import ZImageLoraLoaderMixin

torch.manual_seed(0)
model = ZImageTransformer2DModel(
    in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=24,
    axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
)
layers = {  # name in the file -> path in the model
    "layers_0_attention_out": "layers.0.attention.to_out.0",
    "layers_1_feed_forward_w2": "layers.1.feed_forward.w2",
    "cap_embedder_1": "cap_embedder.1",
    "x_embedder": "all_x_embedder.2-1",
    "final_layer_linear": "all_final_layer.2-1.linear",
}
before, file = {}, {}
for name, path in layers.items():
    layer = model.get_submodule(path)
    before[name] = layer.weight.detach().clone()
    file[f"lora_unet_{name}.lora_down.weight"] = torch.randn(2, layer.in_features)
    file[f"lora_unet_{name}.lora_up.weight"] = torch.randn(layer.out_features, 2)
    file[f"lora_unet_{name}.alpha"] = torch.tensor(2.0)
ZImageLoraLoaderMixin.load_lora_into_transformer(ZImageLoraLoaderMixin.lora_state_dict(file), model)
model.fuse_lora()
model.unload_lora()
changed = [name for name, path in layers.items() if not torch.equal(model.get_submodule(path).weight, before[name])]
print(f"diffusers {diffusers.__version__}: changed {', '.join(changed)}; not changed {', '.join(layers.keys() - set(changed))}")
if changed != ["layers_0_attention_out", "layers_1_feed_forward_w2", "cap_embedder_1"]:
    sys.exit("changed: other layers are loaded")
PYTHON
