"""The kinds of adapters, by name. A literal table: listing the names loads nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorasmith.adapters.base import AdapterKind

ADAPTERS = {
    "lora": "lorasmith.adapters.lora:Lora",
    "loha": "lorasmith.adapters.loha:Loha",
}
DROP_RANKS = frozenset({"lora", "loha"})
"""Kinds whose layers can leave out some of their ranks in training."""


def adapter_kind(name: str) -> AdapterKind:
    """The kind called `name`; imports torch."""
    module, _, attribute = ADAPTERS[name].partition(":")
    kind: AdapterKind = getattr(import_module(module), attribute)()
    return kind
