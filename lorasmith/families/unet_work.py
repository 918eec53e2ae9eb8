"""Counts the floating-point operations of a UNet of latent diffusion by the sizes of its layers, without running it."""

from __future__ import annotations

from lorasmith.families.forward_work import ForwardWork, LayerWork, Shapes

ONCE = frozenset({"time_embedding", "add_embedding", "time_emb_proj"})  # layers that see a vector for each picture


def unet_work(shapes: Shapes, *, height: int, width: int, tokens: int) -> ForwardWork:
    """The work for latents of this size and a caption of `tokens` tokens, by diffusers' names of the weights."""
    last = max((int(name.split(".")[1]) for name in shapes if name.startswith("down_blocks.")), default=0)
    pixels = [(height, width)]
    for _ in range(last):
        pixels.append((-(-pixels[-1][0] // 2), -(-pixels[-1][1] // 2)))
    layers, attention = {}, 0
    for name, shape in shapes.items():
        if not name.endswith(".weight") or len(shape) < 2:
            continue
        parts = name.split(".")
        rows, columns = pixels[_level(parts, last)]
        is_text = "attn2" in parts and parts[-2] in ("to_k", "to_v")
        positions = 1 if not ONCE.isdisjoint(parts) else tokens if is_text else rows * columns
        size = 1
        for side in shape:
            size *= side
        layers[name.removesuffix(".weight")] = LayerWork(positions, size, is_text)
        if parts[-2] == "to_q":
            keys = tokens if "attn2" in parts else positions
            attention += 4 * positions * keys * shape[0]
    return ForwardWork(layers, attention)


def _level(parts: list[str], last: int) -> int:
    """How often the latents were halved where a layer computes."""
    if parts[0] == "down_blocks":
        return min(last, int(parts[1]) + ("downsamplers" in parts))
    if parts[0] == "up_blocks":
        return max(0, last - int(parts[1]) - ("upsamplers" in parts))
    return last if parts[0] == "mid_block" else 0
