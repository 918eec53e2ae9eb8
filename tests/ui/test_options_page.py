from __future__ import annotations

import re

from lorasmith.config import options
from lorasmith.ui.options_page import page


def test_every_option_has_a_row_in_each_language() -> None:
    text = page()
    for option in options().values():
        assert len(re.findall(rf"^\| `--{option.name}[ `]", text, re.MULTILINE)) == 2


def test_a_pipe_does_not_end_a_cell() -> None:
    row = next(line for line in page().splitlines() if line.startswith("| `--precision"))
    assert row.replace(r"\|", "").count("|") == 5
