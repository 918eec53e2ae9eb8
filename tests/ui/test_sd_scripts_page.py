from __future__ import annotations

from lorasmith.messages import LANGUAGES
from lorasmith.sd_scripts.arguments import arguments, of_other_scripts
from lorasmith.ui.sd_scripts_page import page
from tests.laws.source_tree import ROOT


def test_the_page_is_what_the_table_says() -> None:
    written = (ROOT / "docs" / "sd-scripts.md").read_text(encoding="utf-8")
    assert written == page(), "run `python -m lorasmith.ui.sd_scripts_page > docs/sd-scripts.md`"


def test_every_argument_is_on_the_page() -> None:
    text = page()
    names = [*arguments(), *of_other_scripts()]
    assert [name for name in names if text.count(f"`--{name}") < len(LANGUAGES)] == []
