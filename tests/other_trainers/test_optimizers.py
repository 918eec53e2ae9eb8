import pytest

from lorasmith.other_trainers.optimizers import optimizer_named


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ADAMW", "adamw"),
        ("ADAMW_8BIT", "adamw8bit"),
        ("adamw8bit", "adamw8bit"),
        ("PRODIGY", "prodigy"),
        ("Lion", "lion"),
    ],
)
def test_optimizers_of_other_trainers(name: str, ours: str) -> None:
    assert optimizer_named(name) == ours


def test_an_optimizer_that_is_not_known_here() -> None:
    assert optimizer_named("MUON_ADV_X") is None
