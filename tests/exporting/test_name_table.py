"""A table names every layer with its place in a file; a table that contradicts itself is refused."""

import pytest

from lorasmith.exporting.name_table import NameTable, parse_table
from lorasmith.targets import LayerSpec

COLUMNS = "target\tmodule\tcomponent\tkind\tout\tin\tkernel\tpart"
QKV = """
denoiser.a.to_v	lora_unet_a_qkv	denoiser	linear	20	12		24:44
denoiser.a.to_q	lora_unet_a_qkv	denoiser	linear	12	12		0:12
denoiser.a.to_k	lora_unet_a_qkv	denoiser	linear	12	12		12:24
denoiser.conv	lora_unet_conv	denoiser	conv	8	4	3x1	
"""


def parsed(rows: str) -> NameTable:
    return parse_table("made-up", f"{COLUMNS}\n{rows.strip(chr(10))}")


def test_parts_are_in_the_order_of_their_rows() -> None:
    table = parsed(QKV)
    assert [row.target for row in table.modules["lora_unet_a_qkv"]] == [f"denoiser.a.to_{part}" for part in "qkv"]
    assert table.targets["denoiser.a.to_v"].part == slice(24, 44)
    (convolution,) = table.modules["lora_unet_conv"]
    assert convolution.layer == LayerSpec(8, 4, (3, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("12:24", "13:25"),  # a gap
        ("24:44", "12:32"),  # twice the same rows
        ("24:44", ""),  # no part of a module that has parts
        ("24:44", "24:43"),  # other than its size
        ("to_v", "to_q"),  # a target twice
        ("3x1", ""),  # a convolution without a kernel
        ("0:12", "1:13"),  # not from the first row on
    ],
)
def test_a_table_that_contradicts_itself_is_refused(old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        parsed(QKV.replace(old, new))
