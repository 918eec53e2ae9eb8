"""Command lines as a person types them, by the shell of the system."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from lorasmith.runs.durable import on_windows


def typed(words: Sequence[str]) -> str:
    """Quoted where they need it: `cmd` and PowerShell know other quotes than a shell does."""
    if not on_windows():
        return shlex.join(words)
    from subprocess import list2cmdline  # which others need not load

    return list2cmdline(words)
