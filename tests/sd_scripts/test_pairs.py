from __future__ import annotations

import pytest

from lorasmith.errors import ConfigError
from lorasmith.sd_scripts.pairs import literals, number, pairs, truth, whole

WHERE = {"argument": "--network_args", "key": "k"}


def test_pairs_are_split_at_the_first_sign() -> None:
    assert pairs(["a=1", "b = x=y", "a=2"], "--network_args") == {"a": "2", "b": "x=y"}


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_a_word_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="sd_no_pair"):
        pairs([text], "--network_args")


def test_literals_are_those_of_python() -> None:
    texts = ["betas=0.9,0.99", "eps=(1e-30, 1e-3)", "amsgrad=True", "d_coef=2", "mode=fast", "k=None", "use=true"]
    assert literals(texts, "--optimizer_args") == {
        "betas": [0.9, 0.99],
        "eps": [1e-30, 1e-3],
        "amsgrad": True,
        "d_coef": 2,
        "mode": "fast",
        "use": True,
    }
    with pytest.raises(ConfigError, match="sd_pair_comma"):
        literals(["weight_decay=0.5,"], "--optimizer_args")
    with pytest.raises(ConfigError, match="sd_no_literal"):
        literals(["a=__import__('os')"], "--optimizer_args")


def test_numbers_and_truth_values() -> None:
    assert (number("0.5", **WHERE), whole("4", **WHERE), truth("True", **WHERE), truth("0", **WHERE)) == (
        0.5,
        4,
        True,
        False,
    )
    for read, text in ((number, "x"), (number, "nan"), (whole, "1.5"), (whole, "inf"), (truth, "maybe")):
        with pytest.raises(ConfigError, match="sd_pair_no_"):
            read(text, **WHERE)
