"""The kinds of adapters, by name. A literal table: listing the names loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lorasmith.adapters.base import AdapterKind

ADAPTERS = {
    "lora": "lorasmith.adapters.lora:Lora",
    "loha": "lorasmith.adapters.loha:Loha",
    "lokr": "lorasmith.adapters.lokr:Lokr",
    "dora": "lorasmith.adapters.dora:Dora",
}
DROP_RANKS = frozenset({"lora", "loha", "dora"})
"""Kinds whose layers can leave out some of their ranks in training."""

LIMITED_NORMS = frozenset({"lora", "loha", "lokr"})
"""Kinds whose change is a product of their tensors, so that its norm can be limited by scaling them."""


def adapter_kind(name: str, options: Mapping[str, Any] = MappingProxyType({})) -> AdapterKind:
    """The kind called `name`, with options of its own; imports torch."""
    module, _, attribute = ADAPTERS[name].partition(":")
    kind: AdapterKind = getattr(import_module(module), attribute)(**options)
    return kind
