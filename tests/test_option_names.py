import pytest

from lorasmith.option_names import NEEDLESS, OURS, closest, plain_name, refusal

KNOWN = (
    "--new",
    "--from",
    "--name",
    "--rank",
    "--batch-size",
    "--lr",
    "--lr-schedule",
    "--lr-warmup",
    "--output",
    "--lang",
)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--rnak", "--rank"),
        ("--Batch_Size", "--batch-size"),
        ("--batch", "--batch-size"),  # a beginning of only one
        ("--lr_warmup_ratio", "--lr-warmup"),
        ("--language", "--lang"),
        ("--lang-of-captions", ""),
        ("--ne", ""),
        ("--nwe", ""),
        ("--neww", ""),
        ("--frm", ""),
        ("--network_dim", ""),
        ("--", ""),
    ],
)
def test_only_what_is_close_and_moves_nothing(given: str, meant: str) -> None:
    assert closest(given, KNOWN) == meant


def test_a_name_of_another_trainer_counts_before_what_it_resembles() -> None:
    assert refusal("--lr_scheduler", KNOWN) == ("foreign", {"ours": "--lr-schedule"})
    assert refusal("lr_scheduler", ["lr_schedule"]) == ("foreign", {"ours": "lr_schedule"})
    assert refusal("--resume", KNOWN) == ("foreign", {"ours": "--continue"})
    assert refusal("--xformers", KNOWN) == ("needless", {})
    assert refusal("--rnak", KNOWN) == ("mistyped", {"nearest": "--rank"})
    assert refusal("--noise_offset", KNOWN) == ("unknown", {})


def test_the_tables_are_in_plain_names_and_apart() -> None:
    assert {name for name in (*OURS, *NEEDLESS) if plain_name(name) != name} == set()
    assert set(OURS) & NEEDLESS == set()
