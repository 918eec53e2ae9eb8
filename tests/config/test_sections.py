import math
from typing import Any

import pytest
from pydantic import ValidationError

from lorasmith.config.sections import (
    LR_SHAPES,
    AdapterConfig,
    DatasetConfig,
    ExportConfig,
    LrScheduleConfig,
    OptimizerConfig,
)


@pytest.mark.parametrize("shape", [*LR_SHAPES, "cosine_with_restarts:3", "cosine_with_restarts:12"])
def test_the_shapes_there_are(shape: str) -> None:
    assert LrScheduleConfig(shape=shape).shape == shape


@pytest.mark.parametrize("shape", ["", "cosin", "cosine:3", "cosine_with_restarts:0", "cosine_with_restarts:", "x"])
def test_no_other_shape(shape: str) -> None:
    with pytest.raises(ValidationError):
        LrScheduleConfig(shape=shape)


@pytest.mark.parametrize(("given", "taken"), [("auto", "auto"), (0, 0), (7, 7), ("7", 7)])
def test_hold_out_is_a_number_or_auto(given: Any, taken: Any) -> None:
    assert DatasetConfig(hold_out=given).hold_out == taken


@pytest.mark.parametrize("given", [-1, "-1", "some", 1.5, True, None])
def test_hold_out_is_nothing_else(given: Any) -> None:
    with pytest.raises(ValidationError):
        DatasetConfig(hold_out=given)


@pytest.mark.parametrize("given", [0, -1, 1025, "many", 2.5])
def test_a_rank_has_its_range(given: Any) -> None:
    with pytest.raises(ValidationError):
        AdapterConfig(rank=given)


@pytest.mark.parametrize("name", ["last", "貓 v1.5", "a" * 120, "字" * 60, "con cat", "auxiliary", "-x", "com"])
def test_a_name_is_a_file_name(name: str) -> None:
    assert ExportConfig(name=name).name == name


NO_NAMES = [
    "a/b",
    "a\\b",
    "..",
    ".hidden",
    "a.",
    "a:b",
    "a?",
    "a*",
    'a"',
    "<a>",
    "a|",
    "con",
    "NUL",
    "Aux.v2",
    "com1",
    "lpt9",
    "nul.tar",
]


@pytest.mark.parametrize("name", [*NO_NAMES, "", " a", "a ", "a\n", "a\x00", "x" * 121, "字" * 61, "lpt9 .x"])
def test_what_no_file_can_be_called_everywhere_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        ExportConfig(name=name)


def test_there_is_room_for_all_that_is_added_to_a_name() -> None:
    # The longest: the temporary name of a second backup of one second.
    longest = "字" * 60
    made = f".{longest}_backup_20250304_120506_99.safetensors.4194304.tmp"
    assert ExportConfig(name=longest) and len(made.encode()) <= 255


@pytest.mark.parametrize("value", [1, 0.5, "x", True, [0.9, 0.99], {"deep": [1, {"er": False}]}, -(2**40)])
def test_an_option_of_the_optimizer_is_what_toml_can_keep(value: Any) -> None:
    assert OptimizerConfig(options={"a": value}).options == {"a": value}


@pytest.mark.parametrize("value", [None, math.inf, math.nan, [None, 0.1], {"deep": None}, (1, 2), object()])
def test_what_would_not_come_back_from_run_toml_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        OptimizerConfig(options={"a": value})
