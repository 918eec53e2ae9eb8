"""Files and functions stay small enough to read at once."""

from __future__ import annotations

import ast
from functools import cache

from tests.laws.source_tree import ROOT, modules, name_of, parsed, scripts

MAX_LINES_OF_FILE = 400
MAX_LINES_OF_FUNCTION = 60
# "path" or "path:function" -> why it may be larger.
EXCEPTIONS: dict[str, str] = {}


@cache
def too_large() -> dict[str, int]:
    found = {}
    for path in [*modules(), *scripts(), *sorted((ROOT / "tests").rglob("*.py"))]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES_OF_FILE:
            found[name_of(path)] = lines
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_LINES_OF_FUNCTION:
                    found[f"{name_of(path)}:{node.name}"] = length
    return found


def test_files_and_functions_are_small() -> None:
    found = too_large()
    assert {name: lines for name, lines in found.items() if name not in EXCEPTIONS} == {}


def test_no_exception_has_outlived_its_reason() -> None:
    assert set(EXCEPTIONS) <= set(too_large())
    assert all(EXCEPTIONS.values())
