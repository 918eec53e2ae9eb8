from __future__ import annotations

from lorasmith.config import RunConfig
from lorasmith.runtime.given import GIVEN, given_options

RANK, LR, PREDICTION = ("adapter", "rank"), ("optimizer", "lr"), ("model", "prediction")


def test_options_that_were_set_are_kept_over_the_starts_of_a_run() -> None:
    given = given_options({RANK: "4", PREDICTION: "auto", LR: 1e-4})
    assert given == ("rank",)
    before = RunConfig().with_values({RANK: 4, PREDICTION: "epsilon", GIVEN: given})
    assert given_options({LR: 2e-4}, before) == ("lr", "rank")


def test_a_run_of_an_older_version_does_not_get_half_a_record() -> None:
    assert given_options({LR: 2e-4}, RunConfig()) is None
