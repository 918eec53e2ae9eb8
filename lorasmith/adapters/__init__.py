"""The adapter kinds, by name. A literal table: listing the names loads nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorasmith.adapters.base import Adapter

ADAPTERS = {
    "lora": "lorasmith.adapters.lora:Lora",
}


def adapter_kind(name: str) -> type[Adapter]:
    """The class called `name`."""
    module, _, attribute = ADAPTERS[name].partition(":")
    kind: type[Adapter] = getattr(import_module(module), attribute)
    return kind
