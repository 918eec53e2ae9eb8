from pathlib import Path

import pytest

from lorasmith.config import RunConfig
from lorasmith.config.sample_prompts import SamplePrompt, sample_prompt
from lorasmith.errors import ConfigError
from lorasmith.runtime.prompt_files import PROMPTS, prompts_in, with_prompts_of

TOML = """
[prompt]
width = 512
negative_prompt = "blurry"
[[prompt.subset]]
prompt = "a cat"
seed = 0
[[prompt.subset]]
prompt = "a dog"
width = 768
sample_steps = 20
scale = 5.5
"""
JSON = '[{"prompt": "a\\ncat", "height": 640, "sample_sampler": "euler_a"}, "a dog --d 3"]'


def test_each_format_gives_the_same_prompts_as_sd_scripts_reads(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\ufeff# people\n\n  a cat --d 1  \n  # indented\na dog\n", encoding="utf-8")
    (tmp_path / "p.toml").write_text(TOML)
    (tmp_path / "p.JSON").write_text(JSON)
    assert prompts_in(tmp_path / "p.txt") == ("a cat --d 1", "a dog")
    assert [sample_prompt(line) for line in prompts_in(tmp_path / "p.toml")] == [
        SamplePrompt("a cat", "blurry", width=512, seed=0),
        SamplePrompt("a dog", "blurry", width=768, steps=20, guidance=5.5),
    ]
    assert [sample_prompt(line) for line in prompts_in(tmp_path / "p.JSON")] == [
        SamplePrompt("a cat", height=640, ignored=("--ss euler_a",)),
        SamplePrompt("a dog", seed=3),
    ]


def test_prompts_of_a_file_follow_those_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a dog\n")
    values = with_prompts_of("p.txt", {PROMPTS: ("a cat",)}, tmp_path)
    assert RunConfig().with_values(values).evaluation.sample_prompts == ("a cat", "a dog")
    assert with_prompts_of("", {}, tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("missing.txt", None),
        ("p.toml", "prompt = 3"),
        ("p.toml", "[prompt"),
        ("p.json", "{}"),
        ("p.json", '[{"text": "a"}]'),
        ("p.json", '[{"prompt": "a", "sampel_steps": 3}]'),
        ("p.json", '[{"prompt": "a --n b"}]'),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        prompts_in(tmp_path / name)
    assert caught.value.code == "prompts_unreadable"
