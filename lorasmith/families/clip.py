"""CLIP's tokenizer and text encoder, as functions that families share. Knows no family, and never goes online.

The libraries' names for the text encoder's layers have changed over time (`text_model.` came and went); because of the
two functions at the end, every name outside this file is the published name.
"""

from __future__ import annotations

import bisect
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from lorasmith.errors import ModelError
from lorasmith.families.caption_weights import weighted_parts
from lorasmith.families.clip_bpe import clip_tokenizer_files, tokenizer_config
from lorasmith.families.loading import Build
from lorasmith.families.weights import BaseWeights, TextSettings
from lorasmith.libraries import importing_library
from lorasmith.targets import TargetModule

CAPTION_TOKENS = 75
"""The most that CLIP's 77 positions hold besides the start and the end."""
MAX_SHOWN = 40
"""Characters of a tag in a message."""
ELLIPSIS = "\u2026"
_TEXT_TARGETS = re.compile(r"text_model\.encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])")


def tokenizer_of(files: Mapping[str, str] | None, *, source: Path) -> Any:
    """transformers' CLIPTokenizer from the texts of its files by name; None: CLIP's own vocabulary.

    `source` is the path that an error names.

    Raises:
        ModelError: `model_tokenizer`, the files are no CLIP vocabulary.
    """
    texts = {"tokenizer_config.json": tokenizer_config()} | dict(clip_tokenizer_files() if files is None else files)
    # Every version of transformers reads a folder; the arguments of its constructor differ between versions.
    with TemporaryDirectory(prefix="lorasmith-") as folder:
        for name, text in texts.items():
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        return tokenizer_from(Path(folder), source=source)


def tokenizer_from(folder: Path, *, source: Path) -> Any:
    """transformers' CLIPTokenizer from a folder.

    Raises:
        ModelError: `model_tokenizer`.
    """
    with importing_library():
        from transformers import CLIPTokenizer

    try:
        _check_vocabulary(folder)
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("model_tokenizer", path=str(source)) from error


def model_tokenizer(weights: BaseWeights, text_encoder: str, *, is_padding_plain: bool = False) -> Any:
    """The tokenizer that belongs to a text encoder of a model.

    Args:
        is_padding_plain: whether it pads with a token that captions hold too. Only its vocabulary is read then:
            transformers would take that sign in a caption for padding.

    Raises:
        ModelError: `model_tokenizer`, also where it has more tokens than the text encoder.
    """
    name = weights.names.tokenizers[text_encoder]
    files = weights.configs[name]
    if files is None and weights.layout == "diffusers":
        folder = weights.path / name
        if is_padding_plain:
            tokenizer = tokenizer_of(_vocabulary_of(folder, source=weights.path), source=weights.path)
        else:
            tokenizer = tokenizer_from(folder, source=weights.path)
    else:
        tokenizer = tokenizer_of(files, source=weights.path)
    if len(tokenizer) > weights.configs[text_encoder]["vocab_size"]:
        raise ModelError("model_tokenizer", path=str(weights.path))
    return tokenizer


def _vocabulary_of(folder: Path, *, source: Path) -> dict[str, str]:
    """The texts of `vocab.json` and `merges.txt`, which newer libraries keep in `tokenizer.json`.

    Raises:
        ModelError: `model_tokenizer`.
    """
    try:
        if (folder / "vocab.json").is_file():
            return {name: (folder / name).read_text(encoding="utf-8") for name in ("vocab.json", "merges.txt")}
        model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        merges = "".join(f"{pair}\n" for pair in ["#version: 0.2", *pairs])
        return {"vocab.json": json.dumps(model["vocab"]), "merges.txt": merges}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError("model_tokenizer", path=str(source)) from error


def caption_tokens(text: TextSettings) -> int:
    """The tokens of a caption that these settings leave; more than CLIP has positions for are read in whole blocks."""
    tokens = CAPTION_TOKENS if text.max_tokens is None else text.max_tokens
    assert tokens <= CAPTION_TOKENS or tokens % CAPTION_TOKENS == 0, "the last block would be shorter"
    return tokens


def _check_vocabulary(folder: Path) -> None:
    """Raises ValueError where the tokenizers library would raise a bare Exception. A newer library's folder may hold
    `tokenizer.json` alone."""
    if not (folder / "vocab.json").is_file():
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        return
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    if not (
        isinstance(vocabulary, dict) and all(type(number) is int and number >= 0 for number in vocabulary.values())
    ):
        raise ValueError("vocab.json")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    for line in lines[1:] if lines[0].startswith("#version") else lines:
        parts = line.split(" ")
        if line and not (len(parts) == 2 and {*parts, "".join(parts)} <= vocabulary.keys()):
            raise ValueError("merges.txt")


def input_ids(tokenizer: Any, caption: str, *, tokens: int = CAPTION_TOKENS, padding: int | None = None) -> Tensor:
    """(tokens + 2,) int64: padded with the number `padding`, or as the tokenizer pads; a longer caption is cut off.

    OpenCLIP pads with 0, which is also the number of "!" inside a word: as the tokenizer's own padding, transformers
    would read every "!" of a caption as padding.
    """
    if padding is None:
        encoded = tokenizer(caption, padding="max_length", max_length=tokens + 2, truncation=True, return_tensors="pt")
        ids: Tensor = encoded["input_ids"][0]
        return ids
    found = tokenizer(caption, max_length=tokens + 2, truncation=True)["input_ids"]
    return torch.tensor(found + [padding] * (tokens + 2 - len(found)))


def caption_inputs(
    tokenizer: Any, caption: str, text: TextSettings, *, name: str, padding: int | None = None
) -> dict[str, Tensor]:
    """The tokens of a caption as `name`_ids: (tokens + 2,), or (blocks, 77) of a long caption. Where captions have
    weights, also `name`_weights, (tokens + 2,): the weight of each place of the joined blocks."""
    most = caption_tokens(text)
    if most <= CAPTION_TOKENS and not text.has_weights:
        return {f"{name}_ids": input_ids(tokenizer, caption, tokens=most, padding=padding)}
    numbers: list[int] = []
    weights: list[float] = []
    for words, weight in weighted_parts(caption) if text.has_weights else [(caption, 1.0)]:
        found = tokenizer(words, max_length=most + 2, truncation=True)["input_ids"][1:-1]
        numbers += found
        weights += [weight] * len(found)
    pad, size = tokenizer.pad_token_id if padding is None else padding, min(most, CAPTION_TOKENS)
    blocks = [numbers[:most][first : first + size] for first in range(0, most, size)]
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[start, *block, end, *[pad] * (size - len(block))] for block in blocks])
    inputs = {f"{name}_ids": ids if len(blocks) > 1 else ids[0]}
    if text.has_weights:
        inside = weights[:most]
        inputs[f"{name}_weights"] = torch.tensor([1.0, *inside, *[1.0] * (most + 1 - len(inside))])
    return inputs


def first_unseen_tag(tokenizer: Callable[[], Any], caption: str, *, tokens: int = CAPTION_TOKENS) -> str:
    """The first tag of a caption that is cut off after `tokens` tokens, whole or in part; "" where none is.

    `tokenizer` is called only for a caption of more bytes than tokens, as no token is shorter than a byte.
    """

    def counter() -> Callable[[int], bool]:
        tokenize = tokenizer()

        def is_over(end: int) -> bool:
            ids = tokenize(caption[:end], truncation=True, max_length=tokens + 3)["input_ids"]
            return len(ids) > tokens + 2

        return is_over

    return first_tag_cut(caption, counter, tokens=tokens)


def first_tag_cut(caption: str, counter: Callable[[], Callable[[int], bool]], *, tokens: int) -> str:
    """The same for any tokenizer: `counter` returns a function that decides whether the caption up to a character has
    more than `tokens` tokens."""
    if len(unicodedata.normalize("NFC", caption).lower().encode()) <= tokens:
        return ""
    is_over = counter()
    if not is_over(len(caption)):
        return ""
    ends = [word.end() for word in re.finditer(r"[^\s,\uff0c\u3001]+", caption)] + [len(caption)]
    cut = bisect.bisect_left(ends, True, key=is_over)
    tags = list(re.finditer(r"[^,\uff0c\u3001]+", caption))
    tag = next((tag for tag in tags if tag.end() >= ends[cut]), tags[-1])
    words = tag[0].strip()
    if len(words) <= MAX_SHOWN:
        return words
    begin = max(ends[cut - 1] if cut else 0, tag.start())  # of the word that is cut, in a sentence
    if ends[cut] - begin > MAX_SHOWN:  # a sentence without spaces
        begin += max(0, bisect.bisect_left(range(begin, ends[cut]), True, key=is_over) - 1)
    return caption[begin : min(begin + MAX_SHOWN, tag.end())].strip() + ELLIPSIS


def hidden_states(encoder: Any, input_ids: Tensor, *, clip_skip: int, weights: Tensor | None = None) -> Tensor:
    """The tokens and weights of captions -> (B, T, D) in the encoder's precision: the layer `clip_skip` from the end,
    through the final norm."""
    layers = encoder_output(encoder, input_ids).hidden_states
    return of_captions(_stack(encoder).final_layer_norm(layers[-clip_skip]), input_ids, weights)


def encoder_output(encoder: Any, input_ids: Tensor) -> Any:
    """The output of the library's encoder for (B, T), or for each block of (B, blocks, T), in order."""
    ids = input_ids.to(encoder.device).flatten(0, -2)
    return encoder(input_ids=ids, output_hidden_states=True, return_dict=True)


def of_captions(hidden: Tensor, input_ids: Tensor, weights: Tensor | None) -> Tensor:
    """A layer's states of blocks -> those of captions, each place times its weight. As sd-scripts joins blocks: the
    start of the first, everything between the start and the last place of each, the last place of the last."""
    if input_ids.ndim > 2:
        blocks = hidden.unflatten(0, input_ids.shape[:2])
        hidden = torch.cat([blocks[:, 0, :1], blocks[:, :, 1:-1].flatten(1, 2), blocks[:, -1, -1:]], dim=1)
    return hidden if weights is None else hidden * weights.to(hidden)[..., None]


def text_targets(encoder: nn.Module, component: str) -> Iterable[TargetModule]:
    """The linear layers of attention and MLP, as sd-scripts chooses them."""
    for path, _ in encoder.named_modules():
        name = published_name(path)
        if _TEXT_TARGETS.fullmatch(name):
            is_input = name.endswith(("q_proj", "k_proj", "v_proj"))
            shared = f"{component}.{name.rpartition('.')[0]}" if is_input else ""
            yield TargetModule.inside(
                encoder, path, name=f"{component}.{name}", component=component, shared_input=shared
            )


# -- building --------------------------------------------------------------------------------------


def text_builder(kind: str = "CLIPTextModel") -> Build:
    """Imports transformers; the function that builds a text model, on the meta device except its table of positions.

    Args:
        kind: the class in transformers: CLIPTextModel, or CLIPTextModelWithProjection.
    """
    from transformers import CLIPTextConfig
    from transformers.models.clip import modeling_clip

    def build(config: Mapping[str, Any]) -> nn.Module:
        left_out = ("architectures", "_name_or_path", "dtype")
        known = {name: value for name, value in config.items() if name not in left_out}
        with torch.device("meta"):
            encoder = getattr(modeling_clip, kind)(CLIPTextConfig(**known))
        embeddings = _stack(encoder).embeddings
        embeddings.position_ids = torch.arange(config["max_position_embeddings"])[None]
        return encoder

    return build


def installed_name(encoder: nn.Module, name: str) -> str:
    """ "text_model.encoder.layers.0.…" -> the same layer in the installed library."""
    return name if _has_text_model(encoder) else name.removeprefix("text_model.")


def published_name(name: str) -> str:
    """The canonical name from the installed library's."""
    return "text_model." + name.removeprefix("text_model.")


def _has_text_model(encoder: nn.Module) -> bool:
    return "text_model" in dict(encoder.named_children())


def _stack(encoder: nn.Module) -> Any:
    """The module that holds embeddings, layers and final norm."""
    return encoder.get_submodule("text_model") if _has_text_model(encoder) else encoder
