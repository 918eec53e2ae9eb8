"""CLIP's tokens against golden ones, and its layers whatever the installed library calls them.

`sd_scripts_tokens.json` holds the tokens and weights that the functions of sd-scripts (commit 48d368fa) gave with
the same vocabulary, as runs of (value, count) for each block.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lorasmith.errors import ModelError
from lorasmith.families import clip
from lorasmith.families.sd15.layout import usual_config
from lorasmith.families.weights import TextSettings

OF_SD_SCRIPTS = json.loads(Path(__file__).with_name("sd_scripts_tokens.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return clip.tokenizer_of(None, source=Path("here"))


def test_golden_tokens(tokenizer) -> None:
    ids = clip.input_ids(tokenizer, "a photo of a cat").tolist()
    assert ids[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert ids[7:] == [49407] * 70


def test_captions_are_folded_and_cut(tokenizer) -> None:
    captions = ["A  PHOTO\nof a cat", "cat " * 200, "", "一隻貓 🐈"]
    ids = torch.stack([clip.input_ids(tokenizer, caption) for caption in captions])
    assert ids.shape == (4, 77)
    assert ids.dtype == torch.int64
    assert ids[0].tolist() == clip.input_ids(tokenizer, "a photo of a cat").tolist()
    assert ids[1].tolist() == [49406, *[2368] * 75, 49407]
    assert ids[2].tolist() == [49406, *[49407] * 76]
    assert 3 < ids[3].tolist().index(49407) < 30


def test_padding_with_a_number_reads_the_caption_as_before(tokenizer) -> None:
    """Also the token of that number's text: OpenCLIP pads with 0, "!", and reads "cat!" as 2368, 256."""
    ids = clip.input_ids(tokenizer, "a cat!", padding=0).tolist()
    assert ids == [49406, 320, 2368, 256, 49407, *[0] * 72]
    assert clip.input_ids(tokenizer, "cat " * 200, padding=0).tolist() == [49406, *[2368] * 75, 49407]
    assert clip.input_ids(tokenizer, "a cat", tokens=5, padding=0).tolist() == [49406, 320, 2368, 49407, 0, 0, 0]


def spread(runs: list[list[Any]]) -> list[Any]:
    return [value for value, count in runs for _ in range(count)]


def test_long_and_weighted_captions_become_the_tokens_of_sd_scripts(tokenizer) -> None:
    for row in OF_SD_SCRIPTS:
        text = TextSettings(max_tokens=row["tokens"], has_weights="weights" in row)
        found = clip.caption_inputs(tokenizer, row["caption"], text, name="x", padding=row["padding"])
        assert found["x_ids"].view(-1, 77).tolist() == [spread(block) for block in row["blocks"]], row
        if text.has_weights:
            inside = [weight for block in row["weights"] for weight in spread(block)[1:-1]]
            assert found["x_weights"].tolist() == pytest.approx([1.0, *inside, 1.0], abs=1e-6), row
        else:
            assert found.keys() == {"x_ids"}


def test_the_states_of_blocks_are_joined_and_weighted() -> None:
    """As sd-scripts: the first start, the insides of all blocks, the last place; each times its weight."""
    ids = torch.zeros(2, 3, 5)  # two captions of three blocks
    hidden = torch.arange(2 * 3 * 5, dtype=torch.float32).view(6, 5, 1)
    found = clip.of_captions(hidden, ids, None)
    of_first = [0, 1, 2, 3, 6, 7, 8, 11, 12, 13, 14]
    assert found[..., 0].tolist() == [of_first, [place + 15 for place in of_first]]
    weights = torch.linspace(0, 1, 11).expand(2, 11)
    assert torch.equal(clip.of_captions(hidden, ids, weights), found * weights[..., None])
    assert clip.of_captions(hidden, ids[:, 0], None) is hidden


@pytest.mark.parametrize(
    ("caption", "tag"),
    [
        ("a, " * 37 + "b", ""),  # 75 tokens
        ("a, " * 37 + "b c", "b c"),
        ("a, " * 38, ""),  # only a comma is lost
        ("word " * 75, ""),
        ("word " * 75 + "the tail of it", "the tail of it\u2026"),  # a sentence: from the word that is cut
        (", ".join(f"tag number {number}" for number in range(30)), "tag number 17"),
        ("\u8c93\u54aa\u5728\u8349\u5730\u4e0a\uff0c" * 20, "\u8c93\u54aa\u5728\u8349\u5730\u4e0a"),
        ("x" * 300, ""),
    ],
)
def test_the_first_tag_that_is_not_seen(tokenizer, caption: str, tag: str) -> None:
    assert clip.first_unseen_tag(lambda: tokenizer, caption) == tag


def test_a_sentence_without_spaces_is_cut_where_it_ends(tokenizer) -> None:
    caption = "\u8c93" * 20 + "\u72d7" * 100
    assert clip.first_unseen_tag(lambda: tokenizer, caption).startswith("\u72d7")


def test_a_short_caption_needs_no_tokenizer() -> None:
    assert clip.first_unseen_tag(lambda: pytest.fail("loaded"), "a" * 75) == ""


def test_no_file_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    clip.tokenizer_of(None, source=Path("here"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "files",
    [
        {"vocab.json": "{", "merges.txt": ""},
        {"vocab.json": "[]", "merges.txt": ""},
        {"vocab.json": '{"a": "b"}', "merges.txt": ""},
        {"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\na b\n"},
        {"vocab.json": '{"a": 0, "b": 1, "ab": 2}', "merges.txt": "#version: 0.2\nab\n"},
        {"vocab.json": '{"a": 0}'},
        {},
    ],
)
def test_files_that_are_no_tokenizer(files: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="model_tokenizer") as caught:
        clip.tokenizer_of(files, source=Path("model.safetensors"))
    assert caught.value.fields == {"path": "model.safetensors"}


@pytest.fixture(scope="module")
def encoder():
    config = usual_config("text_encoder") | {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 1}
    built = clip.text_builder()(config | {"num_hidden_layers": 3, "vocab_size": 100})
    generator = torch.Generator().manual_seed(0)
    filled = {name: torch.randn(one.shape, generator=generator) * 0.1 for name, one in built.state_dict().items()}
    built.load_state_dict(filled, assign=True)
    return built.eval()


@torch.no_grad()
def test_clip_skip_counts_from_the_last_layer(encoder) -> None:
    ids = torch.arange(77)[None]
    last = clip.hidden_states(encoder, ids, clip_skip=1)
    assert torch.equal(last, encoder(input_ids=ids).last_hidden_state)
    second = clip.hidden_states(encoder, ids, clip_skip=2)
    assert not torch.equal(second, last)
    stack = encoder.text_model if hasattr(encoder, "text_model") else encoder
    del stack.encoder.layers[2]
    try:
        assert torch.equal(clip.hidden_states(encoder, ids, clip_skip=1), second)
    finally:
        stack.encoder.layers.append(torch.nn.Identity())


def test_names_do_not_depend_on_the_installed_library() -> None:
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    flat, nested = torch.nn.Module(), torch.nn.Module()
    nested.text_model = torch.nn.Module()
    assert clip.installed_name(flat, layer) == "encoder.layers.0.self_attn.q_proj"
    assert clip.installed_name(nested, layer) == layer
    for encoder in (flat, nested):
        assert clip.published_name(clip.installed_name(encoder, layer)) == layer
