"""The table of adapters."""

import subprocess
import sys
from pathlib import Path

import pytest

from lorasmith.adapters import ADAPTERS, adapter_kind
from lorasmith.config import AdapterConfig


@pytest.mark.parametrize("name", ADAPTERS)
def test_each_row_leads_to_the_kind_of_its_name(name: str) -> None:
    kind = adapter_kind(name)
    assert f"{type(kind).__module__}:{type(kind).__name__}" == ADAPTERS[name]
    assert kind.name == name


def test_the_default_of_the_config_is_in_the_table() -> None:
    assert AdapterConfig().kind in ADAPTERS


def test_an_unknown_kind_is_our_own_mistake() -> None:
    with pytest.raises(KeyError):
        adapter_kind("glora")


def test_listing_the_names_loads_nothing() -> None:
    program = "import sys; from lorasmith.adapters import ADAPTERS; print('torch' in sys.modules, *ADAPTERS)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", *ADAPTERS]
