from __future__ import annotations

from typing import Any

import pytest

from tests.sd_scripts.translating import settings


@pytest.mark.parametrize(
    ("line", "expected", "unset"),
    [
        ("", {"save-every": 0, "evaluate-every": 100}, {"keep-states", "save-every-n-epochs"}),
        ("--save_every_n_steps 50", {"save-every": 50}, {"evaluate-every", "keep-states"}),
        ("--save_every_n_epochs 2 --save_last_n_epochs 3", {"save-every-n-epochs": 2, "save-last-n-epochs": 3}, set()),
        ("--save_every_n_steps 50 --save_state", {"keep-states": 0, "save-minutes": 0}, set()),
        ("--save_state", {}, {"keep-states", "save-minutes"}),
        ("--save_every_n_epochs 1 --save_state --save_last_n_epochs_state 2", {"keep-states": 2}, {"save-minutes"}),
        ("--save_every_n_epochs 1 --save_state --save_last_n_epochs 4", {"keep-states": 4}, {"save-minutes"}),
        ("--save_every_n_steps 10 --save_state --save_last_n_steps 30", {"keep-states": 4}, {"save-minutes"}),
        ("--sample_every_n_steps 25", {"evaluate-every": 25}, {"sample-every-n-epochs"}),
        ("--sample_every_n_steps 25 --sample_every_n_epochs 2", {"sample-every-n-epochs": 2}, {"evaluate-every"}),
        ("--sample_every_n_steps 25 --validate_every_n_steps 5", {"evaluate-every": 25}, set()),
        ("--validation_split 0.1 --validate_every_n_steps 5", {"evaluate-every": 5}, set()),
        ("--validation_split 0.1", {"sample-every-n-epochs": 1}, {"evaluate-every"}),
        ("--sample_every_n_steps 0", {"evaluate-every": 100}, set()),
        ("--sample_every_n_epochs -1", {"evaluate-every": 100}, {"sample-every-n-epochs"}),
    ],
)
def test_saves_and_evaluations(line: str, expected: dict[str, Any], unset: set[str]) -> None:
    found = settings(line)
    assert {name: found[name] for name in expected} == expected
    assert not unset & set(found)
