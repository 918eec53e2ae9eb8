"""The source as the laws read it: files, and what is in them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from jinja2 import Environment, nodes

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lorasmith"


def modules() -> list[Path]:
    """Every module of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def templates() -> list[nodes.Template]:
    """Every Jinja2 template of the package."""
    return [Environment().parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.j2"))]


def scripts() -> list[Path]:
    """What is Python beside the package and the tests."""
    return sorted([*ROOT.glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def docstrings(tree: ast.Module) -> set[ast.expr]:
    """Strings that stand alone: docstrings, and those below a field."""
    return {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def called(call: ast.Call) -> str:
    """The last part of what is called: `print`, `say`, `ConfigError`."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def text_of(node: ast.expr | None) -> str | None:
    """The value of a string literal."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
