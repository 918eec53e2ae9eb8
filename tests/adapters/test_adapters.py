"""The table of adapters."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from lorasmith.adapters import ADAPTERS, adapter_kind
from lorasmith.config import AdapterConfig


@pytest.mark.parametrize("name", ADAPTERS)
def test_each_kind_is_a_class_that_can_do_what_an_adapter_does(name: str) -> None:
    kind = adapter_kind(name)
    assert isinstance(kind, type) and f"{kind.__module__}:{kind.__name__}" == ADAPTERS[name]
    assert callable(kind.attach)


def test_the_config_takes_the_kinds_of_the_table() -> None:
    assert set(get_args(AdapterConfig.model_fields["kind"].annotation)) == set(ADAPTERS)


def test_an_unknown_kind_is_our_own_mistake() -> None:
    with pytest.raises(KeyError):
        adapter_kind("lokr")


def test_listing_the_names_loads_nothing() -> None:
    program = "import sys; from lorasmith.adapters import ADAPTERS; print('torch' in sys.modules, *ADAPTERS)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", *ADAPTERS]
