"""The config of the published denoiser, as `detect` of ComfyUI deduces it from the shapes of its tensors."""

from typing import Any

PUBLISHED: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 16,
    "attention_head_dim": 128,
    "num_layers": 28,
    "mlp_ratio": 4.0,
    "text_embed_dim": 1024,
    "adaln_lora_dim": 256,
    "max_size": [128, 240, 240],
    "patch_size": [1, 2, 2],
    "rope_scale": [1.0, 4.0, 4.0],
    "concat_padding_mask": True,
    "extra_pos_embed_type": None,
}
