import pytest

from lorasmith.config import RunConfig
from lorasmith.config.sample_prompts import SamplePrompt, sample_prompt
from lorasmith.errors import ConfigError


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ("a red ring, on blue", SamplePrompt("a red ring, on blue")),
        (
            "a cat --n low quality, blurry --w 519 --h 768 --d 42 --l 7.5 --s 20",
            SamplePrompt("a cat", "low quality, blurry", 512, 768, 42, 20, 7.5),
        ),
        ("a cat --W 512 --D 7", SamplePrompt("a cat", width=512, seed=7)),
        ("a cat --n one --n two", SamplePrompt("a cat", "two")),
        ("a cat --d -1 --s 0", SamplePrompt("a cat", steps=1)),
        # sd-scripts takes these beginnings of the text for flags too.
        ("n cats in a row", SamplePrompt("n cats in a row")),
        ("w 512 wide", SamplePrompt("w 512 wide")),
        ("a -- dash and a semi--colon", SamplePrompt("a -- dash and a semi--colon")),
        ("--n blurry", SamplePrompt("", "blurry")),
        ("a cat --ss euler_a --g 3.5 --ss DDIM", SamplePrompt("a cat", embedded=3.5, ignored=("--ss euler_a",))),
    ],
)
def test_flags_follow_the_text(line: str, prompt: SamplePrompt) -> None:
    assert sample_prompt(line) == prompt


@pytest.mark.parametrize(
    "line", ["a --w512", "a --foo 1", "a --w wide", "a --w 8", "a --l 7,5", "a --l nan", "a --d 9999999999", "a --s"]
)
def test_a_flag_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig().with_values({("evaluation", "sample_prompts"): (line,)})
    assert caught.value.fields["option"] == "sample-prompt"
