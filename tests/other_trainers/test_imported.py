import pytest

from lorasmith.errors import ConfigError
from lorasmith.other_trainers.imported import Imported, LeftOut, Source, one_of, used, whole, without_effect


def test_values_that_our_options_do_not_take_are_named() -> None:
    values = {"rank": 8, "alpha": -1.0, "batch_size": 1, "steps": 0, "ema_decoy": 0.9, "epochs": 3, "base_weights": []}
    found = Imported("x", values)
    checked = found.checked()
    assert checked.values == {"rank": 8, "epochs": 3}  # a batch size of 1 and an empty list are the defaults
    assert checked.left_out == [
        LeftOut("alpha", -1.0, "value"),
        LeftOut("steps", 0, "value"),
        LeftOut("ema_decoy", 0.9, "not_yet"),
    ]


def test_a_subset_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError):
        Imported("x", subsets=[{"data": "a", "resolutoin": 512}]).checked()


def test_what_was_not_read_and_is_used_is_named() -> None:
    source, found = Source({"a": {"rank": "8", "b": 0, "c": "x", "type": "y", "d": "NONE"}}).part("a"), Imported("x")
    found.take(source, "rank", "rank", whole)
    found.take(source, "missing", "alpha")
    found.leave_rest(source, frozenset({"type"}))
    assert (found.values, found.left_out) == ({"rank": 8}, [LeftOut("a.c", "x", "no_counterpart")])


def test_readers() -> None:
    assert [whole(value) for value in ("8", 8.0, 8.5, "wide", None)] == [8, 8, None, None, None]
    assert [used(value) for value in ("", False, "x", 1)] == [None, None, "x", 1]
    assert [one_of({"A": 1})(value) for value in ("a", "A", "b")] == [1, 1, None]
    assert "workspace_dir" in without_effect("onetrainer") and without_effect("nobody") == frozenset()
