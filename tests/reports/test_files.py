from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lorasmith.reports.files import ReportFiles


def test_what_was_made_is_named_the_page_first() -> None:
    assert ReportFiles(Path("a.json"), None, Path("a.html")).made == (Path("a.html"), Path("a.json"))
    assert ReportFiles(None, None, None).made == ()


def test_naming_them_loads_nothing_that_draws() -> None:
    script = "import lorasmith.reports.files, sys; sys.exit(bool({'PIL', 'matplotlib', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
