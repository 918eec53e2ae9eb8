"""Plain English: docstrings, comments and messages use the field's words, and no sentence is a riddle.

The patterns are those of an idiolect that this code once spoke. Each has a plain word for the same thing.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from lorasmith.messages import keys, template
from tests.laws.source_tree import ROOT, docstrings, modules, name_of, parsed, text_of

# Documents that are not held to it -> why.
DOCUMENTS_ASIDE = {
    "docs/LOG.md": "a diary: its entries stay as they were written",
}

_END = (
    r"(?=\s*(?:[.,;:)!?\]]|$)|\s+(?:that|which|who|is|was|has|had|in|of|from|with|to|for|and|or|as|at|on|by|where)\b)"
)
_BEFORE = (
    r"(?:an?|the|this|that|which|each|every|any|no|another|other|same|own|first|last|next|new|old|newer|older|newest|"
    r"earlier|later|good|bad|wrong|right|smaller|larger|whole|such|single|second)"
)
# Pattern -> what to write.
BANNED = {
    r"\btold\b": "shown, recorded, distinguished, known",
    r"\bsaid\b": "reported, stated, shown",
    r"\bow(?:ed|es|ing)\b": "remaining (steps), missing",
    r"\blook(?:s|ed|ing)? at\b": "read, checked, evaluated",
    r"\broom\b": "space, memory",
    r"\b(?:go|goes|going|gone|went) on (?:from|with)\b": "continue(s) from, continued from",
    r"\b(?:somebody|anybody|nobody|whoever|whomever|whom)\b": "the user, the caller, no caller",
    r"\bwish(?:es|ed)?\b": "request, setting",
    r"\bwithout a word\b": "without a message",
    r"\bso many\b": "that many, N",
    r"\bmade up for\b": "done afterwards",
    r"\bat hand\b": "available",
    r"\b(?:that|which) (?:is|are|was|were) there\b": "existing, present",
    r"\bthere (?:is|was) one\b": "it exists",
    r"\bones\b": "the noun",
    rf"\b{_BEFORE} one\b{_END}": "the noun",
    r"\bone (?:that|which|who|whose)\b": "the noun",
    r"\bone of (?:its|their) own\b": "its own",
}
# Word in Traditional Chinese -> the word of docs/glossary.md, or the usual word in Taiwan.
BANNED_ZH = {
    "描述": "說明",
    "樣本": "範例圖",
    "對照組": "基準",
    "保存": "儲存",
    "損毀": "損壞",
    "詞元": "token",
    "最佳化器": "優化器",
    "訓練程序": "訓練程式",
    "訓練資料夾": "輸出資料夾",
    "信息": "訊息",
    "文件": "檔案",
    "默認": "預設",
    "圖層": "層",
    "圖像": "影像",
    "預熱": "暖身",
    "去噪": "去雜訊",
    "分詞器": "tokenizer",
    "數值型別": "資料型別",
    "佔": "占",
}
PATTERNS = {re.compile(pattern, re.IGNORECASE): plain for pattern, plain in BANNED.items()}
BAD_NAMES = {"one", "ones", "told"}
# A sentence or a noun phrase does not begin so; `Whether` is for what is true or false.
BAD_STARTS = {"What", "Who", "Whom", "Whose", "How", "Why", "That", "Of", "Where", "So", "And", "But"}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring and every comment."""
    for node in docstrings(parsed(path)):
        if (text := text_of(node)) is not None:
            yield node.lineno, text
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string.lstrip("# ")


def banned_in(text: str) -> list[str]:
    return [f"`{match[0]}`: {plain}" for pattern, plain in PATTERNS.items() if (match := pattern.search(text))]


def faults_of_words(path: Path) -> list[str]:
    return [f"{name_of(path)}:{line} {fault}" for line, text in texts(path) for fault in banned_in(text)]


def faults_of_names(path: Path) -> list[str]:
    found = []
    for node in ast.walk(parsed(path)):
        name = node.arg if isinstance(node, ast.arg) else node.id if isinstance(node, ast.Name) else ""
        if name in BAD_NAMES and not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)):
            found.append(f"{name_of(path)}:{getattr(node, 'lineno', 0)} the name `{name}`")
    return found


def is_true_or_false(node: ast.AST) -> bool:
    """A function, or a field, that is a bool."""
    annotation = node.returns if isinstance(node, ast.FunctionDef) else getattr(node, "annotation", None)
    return isinstance(annotation, ast.Name) and annotation.id == "bool"


def documented(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """(node, docstring) of the module, its public classes and functions, and the fields of classes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        text = ast.get_docstring(node)
        if text and not getattr(node, "name", "").startswith("_"):
            yield node, text
        for field, below in pairwise(node.body):
            text = text_of(below.value) if isinstance(below, ast.Expr) else None
            if isinstance(field, ast.AnnAssign | ast.Assign) and text is not None:
                yield field, text


def faults_of_form(path: Path) -> list[str]:
    found = []
    for node, text in documented(parsed(path)):
        first = text.split()[0].strip(",.:;") if text.strip() else ""
        is_fragment = first in BAD_STARTS or (first == "Whether" and not is_true_or_false(node))
        if is_fragment or re.fullmatch("[a-z]+", first):
            found.append(f"{name_of(path)}:{getattr(node, 'lineno', 1)} begins with `{first}`")
    return found


def faults(path: Path) -> list[str]:
    return [*faults_of_words(path), *faults_of_names(path), *faults_of_form(path)]


def test_the_code_speaks_plain_english() -> None:
    assert [fault for path in modules() for fault in faults(path)] == []


def test_the_documents_speak_plain_english() -> None:
    found = []
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("findings/*.md")]):
        if name_of(path) not in DOCUMENTS_ASIDE:
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [f"{name_of(path)}:{n} {fault}" for n, line in enumerate(lines, 1) for fault in banned_in(line)]
    assert found == []


def test_the_messages_speak_plain_english() -> None:
    found = [f"{key}: {fault}" for key in sorted(keys("en")) for fault in banned_in(template("en", key))]
    assert found == []


def test_a_thing_has_one_word_in_chinese() -> None:
    sentences = {key: template("zh-TW", key) for key in keys("zh-TW")}
    assert [f"{key}: {word}" for key, text in sentences.items() for word in BANNED_ZH if word in text] == []


@pytest.mark.parametrize(
    "text",
    [
        "What the worker is told.",
        "Steps that are owed.",
        "the state that is there",
        "A run that goes on from the newest one.",
        "The old ones are removed.",
        "each one, in order",
        "Whoever asked",
    ],
)
def test_the_law_finds_the_idiolect(text: str) -> None:
    assert banned_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "At least one file, and one of the states.",
        "one by one, in one step; no one file",
        "This one file goes on.",
        "The bedroom and the mushroom",
        "looks like a folder",
        "Another one thousand steps",
    ],
)
def test_the_law_leaves_plain_english_alone(text: str) -> None:
    assert banned_in(text) == []
