"""The sentences for a metric that has no value."""

from __future__ import annotations

from lorasmith.messages import has, tr


def why_not(language: str, code: str) -> str:
    """The sentence of a reason code. A code of a newer version is shown as it is."""
    return tr(language, f"unavailable.{code}") if has(language, f"unavailable.{code}") else code or "?"


def why_empty(language: str, code: str) -> str:
    """The reason why a chart has nothing to draw: no evaluation was due yet, or the metric could not be computed."""
    return tr(language, f"chart.empty.{code}") if has(language, f"chart.empty.{code}") else why_not(language, code)
