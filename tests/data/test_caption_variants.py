"""Captions at use, beside what sd-scripts makes of the same texts.

`sd_scripts_captions.json` holds the captions that sd-scripts' own function (commit 48d368fa) gave in 6,000 calls, and
how often it gave each.
"""

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lorasmith.config import CaptionsConfig, RunConfig, options
from lorasmith.data.caption_variants import CaptionRules, caption_at, possible_captions, settled_caption
from lorasmith.data.types import Use

SEED = 7
THEIRS: dict[str, dict[str, Any]] = {
    row["name"]: row for row in json.loads(Path(__file__).with_name("sd_scripts_captions.json").read_text("utf-8"))
}
DRAWS = 1500


def rules(trigger_word: str = "", **settings: Any) -> CaptionRules:
    """From the names of options."""
    known = options()
    values = {(known[key].section, known[key].field_name): value for key, value in settings.items()}
    section = RunConfig().with_values(values).captions
    return CaptionRules(section, trigger_word, section.resolved_warmup_steps(100))


def drawn(text: str, how: CaptionRules, *, epoch: int = 1, step: int = 1, count: int = DRAWS) -> Counter[str]:
    return Counter(caption_at(text, how, SEED, Use(0, epoch, step, micro, 0)) for micro in range(count))


@pytest.mark.parametrize("name", THEIRS)
def test_captions_are_those_of_sd_scripts(name: str) -> None:
    row = THEIRS[name]
    theirs, how = row["captions"], rules(**row["options"])
    calls = sum(theirs.values())
    ours = drawn(row["text"], how, epoch=row["epoch"], step=row["completed"] + 1)
    assert ours.keys() <= theirs.keys()
    for caption, times in theirs.items():
        share = times / calls
        spread = (share * (1 - share) * (1 / DRAWS + 1 / calls)) ** 0.5
        assert abs(ours[caption] / DRAWS - share) <= 4.5 * spread, caption
    possible = possible_captions(row["text"], how)
    assert possible is None or ours.keys() <= set(possible)


def test_a_caption_is_a_function_of_seed_and_use() -> None:
    text, how = "a, b, c, d, e, f, g, h", rules(shuffle_caption=True)
    use = Use(3, 1, 5, 1, 2)
    others = [use._replace(**{field: 9}) for field in ("step", "micro", "row")]
    first = caption_at(text, how, SEED, use)
    assert caption_at(text, how, SEED, use._replace(example_id=4, epoch=2)) == first
    assert len({first, caption_at(text, how, 8, use), *(caption_at(text, how, SEED, other) for other in others)}) == 5


def test_an_option_changes_no_draw_of_another() -> None:
    text = "a, b, c, d"
    shuffled, both = rules(shuffle_caption=True), rules(shuffle_caption=True, caption_dropout_rate=0.5)
    for step in range(1, 40):
        use = Use(0, 1, step, 0, 0)
        assert caption_at(text, both, SEED, use) in ("", caption_at(text, shuffled, SEED, use))


def test_prefix_and_suffix_belong_to_every_line() -> None:
    how = rules(enable_wildcard=True, caption_prefix="p", caption_suffix="s")
    assert drawn("a\nb", how).keys() == {"p a s", "p b s"}


def test_a_mark_is_never_part_of_a_caption() -> None:
    how = rules(keep_tokens_separator="|||")
    assert drawn("a ||| b", how, count=1).keys() == {"a, b"}
    assert settled_caption("a ||| b", how) == "a, b"


def test_the_trigger_word_stays_in_front() -> None:
    for text in ("a, b", "sks, a, b"):
        how = rules("sks", shuffle_caption=True, caption_tag_dropout_rate=0.5)
        captions = drawn(text, how)
        assert all(caption.split(", ")[0] == "sks" and caption.count("sks") == 1 for caption in captions)
        assert {"sks", "sks, a, b", "sks, b, a"} <= captions.keys()
    assert drawn("a", rules("sks", caption_dropout_rate=0.5)).keys() == {"", "sks, a"}
    assert drawn("a, b", rules("sks, x", shuffle_caption=True)).keys() == {"sks, x, a, b", "sks, x, b, a"}


def test_a_settled_caption_has_nothing_random() -> None:
    how = rules(
        shuffle_caption=True,
        caption_dropout_rate=1.0,
        caption_tag_dropout_rate=1.0,
        token_warmup_step=50,
        enable_wildcard=True,
        secondary_separator=";;;",
        caption_prefix="p",
    )
    assert settled_caption("{a|b};;;c, d\ne", how) == "p a,c, d"


@pytest.mark.parametrize(
    ("text", "settings", "possible"),
    [
        ("a, b", {}, ("a, b",)),
        ("a, b", {"caption_dropout_rate": 0.1}, ("", "a, b")),
        ("a, b", {"caption_dropout_every_n_epochs": 2}, ("", "a, b")),
        ("a {b|c}\nd", {"enable_wildcard": True}, ("a b", "a c", "d")),
        ("a, b", {"shuffle_caption": True, "keep_tokens": 1}, ("a, b",)),
        ("a, b", {"shuffle_caption": True}, None),
        ("a", {"caption_tag_dropout_rate": 0.1}, None),
        ("a", {"caption_tag_dropout_rate": 0.1, "keep_tokens": 1}, ("a",)),
        ("a, b", {"token_warmup_step": 0.5, "token_warmup_min": 2}, ("a, b",)),
        ("a, b", {"token_warmup_step": 0.5}, None),
        ("{1|2|3|4}{1|2|3|4}", {"enable_wildcard": True}, tuple(f"{a}{b}" for a in "1234" for b in "1234")),
        ("{1|2|3|4}{1|2|3|4}\nz", {"enable_wildcard": True}, None),
        ("{1|2}" * 60, {"enable_wildcard": True}, None),
        ("{a|" + "a|" * 40 + "b}", {"enable_wildcard": True}, ("a", "b")),
        ("{a|}" * 5, {"enable_wildcard": True}, None),  # although only six of the 32 differ
    ],
)
def test_few_captions_are_known_beforehand(
    text: str, settings: dict[str, Any], possible: tuple[str, ...] | None
) -> None:
    assert possible_captions(text, rules(**settings)) == possible


def test_no_use_has_a_caption_that_was_not_known_beforehand() -> None:
    """Random texts of all signs that mean something, under random settings."""
    random = Random(5)
    signs = ["a", "b", ",", ";", "|", "{", "}", "{{", "}}", "|||", " ", "\n", "sks"]
    choices: dict[str, list[Any]] = {
        "shuffle_caption": [False, False, True],
        "keep_tokens": [0, 1, 9],
        "keep_tokens_separator": ["", "|||"],
        "secondary_separator": ["", ";"],
        "enable_wildcard": [False, True],
        "caption_prefix": ["", "p {a|b},"],
        "caption_suffix": ["", ", s"],
        "caption_dropout_rate": [0, 0.5],
        "caption_tag_dropout_rate": [0, 0, 0.5],
        "token_warmup_step": [0, 0, 2],
    }
    few = 0
    for _ in range(300):
        text = "".join(random.choice(signs) for _ in range(random.randrange(12)))
        how = rules(random.choice(["", "sks"]), **{key: random.choice(values) for key, values in choices.items()})
        possible = possible_captions(text, how)
        if possible is not None:
            few += 1
            assert drawn(text, how, count=30).keys() <= set(possible), (text, how)
            assert settled_caption(text, how) in possible
    assert few > 100


def test_the_defaults_leave_a_caption_alone() -> None:
    how = CaptionRules(CaptionsConfig(), "sks")
    for text in ("", "a,  b ,,{c|d}", "sks a"):
        assert settled_caption(text, how) == caption_at(text, how, SEED, Use(0, 1, 1, 0, 0))
    assert [settled_caption(text, how) for text in ("", "a,  b", "sks a")] == ["sks", "sks, a,  b", "sks a"]
