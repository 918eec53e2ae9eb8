"""What the miniatures of families with a Qwen text encoder share: a small vocabulary and random weights."""

import json
import re
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from lorasmith.demo import layouts

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def fill(module: nn.Module) -> None:
    """Random numbers in every parameter, norms near their neutral value: a class's own initial values hide effects."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_numbers(name, parameter, generator, is_zero_centred="Krea2" in type(module).__name__))


def _numbers(name: str, parameter: Tensor, generator: torch.Generator, *, is_zero_centred: bool) -> Tensor:
    drawn = torch.randn(parameter.shape, generator=generator)
    is_norm = "norm" in name and (name.endswith("gamma") or (name.endswith("weight") and parameter.ndim == 1))
    if is_norm:
        return 0.2 * drawn + (0.0 if is_zero_centred else 1.0)
    if parameter.ndim < 2 or name.endswith("scale_shift_table"):
        return 0.3 * drawn
    if "embed_tokens" in name:
        return drawn
    return drawn / parameter[0].numel() ** 0.5


def write_tokenizer(folder: Path, template: str, *, more: tuple[str, ...] = (), chat: str = "") -> int:
    """A vocabulary with Qwen's structure, in which the words of the template are tokens, as in Qwen's own; its size.
    `more`: further tokens of their own; `chat`: the chat template."""
    tokenizer = Tokenizer(models.BPE())
    splitting = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [splitting, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    plain = template
    for token in (*SPECIAL, *more):
        plain = plain.replace(token, "\n")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([plain, "a red circle, a blue ring, a, b, c, d, e, f, g, x x"] * 5, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    first = len(model["vocab"])
    added = {
        str(first + number): {
            "content": token,
            "special": token in SPECIAL,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
            "normalized": False,
        }
        for number, token in enumerate((*SPECIAL, *more))
    }
    layouts.write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "added_tokens_decoder": added,
            "pad_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "model_max_length": 4096,
            **({"chat_template": chat} if chat else {}),
        },
    )
    return first + len(SPECIAL) + len(more)


def language_shapes(*, layers: int, width: int, vocabulary: int = 151_936) -> dict[str, tuple[int, ...]]:
    """Of a published text encoder with 32 heads and 8 of keys, as its file has them without a prefix."""
    sizes: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (width,),
        "post_attention_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (4096, width),
        "self_attn.k_proj.weight": (1024, width),
        "self_attn.v_proj.weight": (1024, width),
        "self_attn.o_proj.weight": (width, 4096),
        "self_attn.q_norm.weight": (128,),
        "self_attn.k_norm.weight": (128,),
        "mlp.gate_proj.weight": (9728, width),
        "mlp.up_proj.weight": (9728, width),
        "mlp.down_proj.weight": (width, 9728),
    }
    inside = {f"layers.{layer}.{name}": shape for layer in range(layers) for name, shape in sizes.items()}
    return {"embed_tokens.weight": (vocabulary, width), "norm.weight": (width,), **inside}


def original_vae_name(name: str, layers: int) -> str:
    """The name of a VAE's tensor in Wan's code and ComfyUI's files; a level has so many `layers`."""
    parts = {
        "post_quant_conv.": "conv2.",
        "quant_conv.": "conv1.",
        "coder.conv_in.": "coder.conv1.",
        "coder.norm_out.": "coder.head.0.",
        "coder.conv_out.": "coder.head.2.",
        "mid_block.resnets.0.": "middle.0.",
        "mid_block.attentions.0.": "middle.1.",
        "mid_block.resnets.1.": "middle.2.",
        "encoder.down_blocks.": "encoder.downsamples.",
        ".conv_shortcut.": ".shortcut.",
    }
    layer = {".norm1.": ".residual.0.", ".conv1.": ".residual.2.", ".norm2.": ".residual.3.", ".conv2.": ".residual.6."}
    is_layer = "resnets" in name or "down_blocks" in name
    if found := re.match(r"decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)\.", name):
        place = int(found[1]) * (layers + 2) + int(found[2] or layers + 1)
        name = f"decoder.upsamples.{place}.{name[found.end() :]}"
    for old, new in (parts | layer if is_layer else parts).items():
        name = name.replace(old, new)
    return name
