"""What a report came to: its files, and what could not be made. Knows not how they are made, so it costs no import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorasmith.errors import InputError
from lorasmith.reports.projections import Trouble


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What was made; a file that could not be is None, and `troubles` or `lacking` says why."""

    json: Path | None
    png: Path | None
    html: Path | None
    troubles: tuple[Trouble, ...] = ()
    lacking: InputError | None = None  # the library without which there is no PNG

    @property
    def made(self) -> tuple[Path, ...]:
        """Those that are there, the page first."""
        return tuple(one for one in (self.html, self.png, self.json) if one is not None)
