"""The catalogs are whole: every code has its sentence in both languages, and no sentence stands anywhere else."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import nodes

from lorasmith import errors
from lorasmith.config import options
from lorasmith.messages import LANGUAGES, keys, template
from tests.laws.source_tree import (
    PACKAGE,
    ROOT,
    called,
    docstrings,
    modules,
    name_of,
    parsed,
    scripts,
    templates,
    text_of,
)

EN, OTHERS = "en", [language for language in LANGUAGES if language != "en"]
ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
SPEAKING = {"tr", "say", "_say", "has", "knows", "template"}
# Fields that Translator puts in itself, so whoever raises the code need not.
FILLED_BY_UI = {"option_without_value": {"expected"}, "picture_skipped": {"problem"}}
# A sentence-like literal that is no sentence -> why.
NOT_SENTENCES: dict[str, str] = {
    "pip install ": "a command, the same in every language",
    "lorasmith ": "the name of the program",
    "upper left": "a place in a chart, as matplotlib names it",
}
CJK = re.compile("[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")


def fields_of(language: str, key: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template(language, key)) if name}


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for path in modules():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call):
                yield path, node


def raised() -> Iterator[tuple[str, str, ast.Call]]:
    """(where, code, call) of every error made from a literal code."""
    for path, call in calls():
        if called(call) in ERRORS and call.args:
            code = text_of(call.args[0])
            if code is not None:
                yield f"{name_of(path)}:{call.lineno}", code, call


def given(call: ast.Call) -> set[str] | None:
    """The names of its fields; None where some come out of a mapping."""
    names = {keyword.arg for keyword in call.keywords}
    return None if None in names else {name for name in names if name}


def literals() -> set[str]:
    """Every string in the package that is not a docstring, and those that name parts of the model's fields."""
    found = set()
    for path in modules():
        for node in ast.walk(parsed(path)):
            text = text_of(node) if isinstance(node, ast.expr) else None
            if text is not None:
                found.add(text)
    return found | {text for template in templates() for text in constants(template)}


def constants(node: nodes.Node) -> list[str]:
    """The strings in the expressions of a template."""
    return [one.value for one in node.find_all(nodes.Const) if isinstance(one.value, str)]


def spoken() -> tuple[set[str], set[str]]:
    """Keys that are said, and beginnings of those put together while it runs."""
    exact: set[str] = set()
    beginnings: set[str] = set()
    for _, call in calls():
        if called(call) not in SPEAKING:
            continue
        found = [node for one in call.args for node in ast.walk(one)]
        joined = [node for node in found if isinstance(node, ast.JoinedStr)]
        pieces = {id(node) for one in joined for node in ast.walk(one)}
        beginnings |= {start for one in joined if (start := text_of(one.values[0])) is not None}
        plain = [text_of(node) for node in found if isinstance(node, ast.Constant) and id(node) not in pieces]
        exact |= {text for text in plain if text is not None and "." in text}
    for tree in templates():
        joined_in_template = {text for one in tree.find_all(nodes.Concat) for text in constants(one)}
        named = {text for text in constants(tree) if re.fullmatch(r"[a-z_]+\.[a-z_.]*", text)}
        beginnings |= {text for text in named if text.endswith(".") or text in joined_in_template}
        exact |= {text for text in named if not text.endswith(".") and text not in joined_in_template}
    return exact, beginnings


@pytest.mark.parametrize("language", OTHERS)
def test_every_language_has_the_same_keys(language: str) -> None:
    assert keys(language) - keys(EN) == set()
    assert keys(EN) - keys(language) == set()


@pytest.mark.parametrize("language", OTHERS)
def test_every_language_has_the_same_fields(language: str) -> None:
    both = keys(language) & keys(EN)
    assert {key: fields_of(language, key) for key in both} == {key: fields_of(EN, key) for key in both}


def test_every_error_has_a_sentence() -> None:
    assert [f"{where} {code}" for where, code, _ in raised() if f"error.{code}.text" not in keys(EN)] == []


def test_every_error_gives_the_fields_its_sentence_needs() -> None:
    lacking = []
    for where, code, call in raised():
        has = given(call)
        if has is None or f"error.{code}.text" not in keys(EN):
            continue
        hint = f"error.{code}.hint"
        needs = fields_of(EN, f"error.{code}.text") | (fields_of(EN, hint) if hint in keys(EN) else set())
        if missing := needs - has - FILLED_BY_UI.get(code, set()):
            lacking.append(f"{where} {code}: {sorted(missing)}")
    assert lacking == []


def test_every_warning_has_a_sentence_and_its_fields() -> None:
    lacking = []
    for path, call in calls():
        if called(call) != "Warned":
            continue
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        code = text_of(keywords.get("code"))
        if code is None:
            continue
        where = f"{name_of(path)}:{call.lineno} {code}"
        if f"warning.{code}.text" not in keys(EN):
            lacking.append(where)
            continue
        fields = keywords.get("fields")
        if isinstance(fields, ast.Dict) and all(fields.keys):
            has = {text_of(key) for key in fields.keys}
            if missing := fields_of(EN, f"warning.{code}.text") - has:
                lacking.append(f"{where}: {sorted(missing)}")
    assert lacking == []


def test_every_problem_has_a_sentence() -> None:
    lacking = []
    for path, call in calls():
        if called(call) != "Problem":
            continue
        reason = next((keyword.value for keyword in call.keywords if keyword.arg == "reason"), None)
        candidates = [text_of(one) for one in [reason, *call.args] if one is not None]
        for code in filter(None, candidates):
            if re.fullmatch(r"[a-z_]+", code) and f"problem.{code}.text" not in keys(EN):
                lacking.append(f"{name_of(path)}:{call.lineno} {code}")
    assert lacking == []


def test_every_finding_has_a_sentence_and_its_fields() -> None:
    """`finding` gives `count` and `files`; what else a sentence needs it is given by name."""
    lacking = []
    for path, call in calls():
        if called(call) not in ("finding", "about") or not call.args:
            continue
        code = text_of(call.args[0])
        if code is None or not re.fullmatch(r"[a-z_]+", code):
            continue
        where = f"{name_of(path)}:{call.lineno} {code}"
        if f"finding.{code}.text" not in keys(EN):
            lacking.append(where)
            continue
        has = given(call)
        hint = f"finding.{code}.hint"
        needs = fields_of(EN, f"finding.{code}.text") | (fields_of(EN, hint) if hint in keys(EN) else set())
        if has is not None and (missing := needs - has - {"count"}):
            lacking.append(f"{where}: {sorted(missing)}")
    assert lacking == []


def test_every_key_that_is_said_is_there() -> None:
    exact, beginnings = spoken()
    assert exact - keys(EN) == set()
    assert {start for start in beginnings if not any(key.startswith(start) for key in keys(EN))} == set()


def test_no_sentence_is_left_over() -> None:
    exact, beginnings = spoken()
    codes = literals() | {one.key for one in options().values()} | {one.section for one in options().values()}
    unused = []
    for key in keys(EN) - exact:
        rests = [key.removeprefix(start) for start in beginnings if key.startswith(start)]
        if not any(rest.removesuffix(".text").removesuffix(".hint") in codes for rest in rests):
            unused.append(key)
    assert sorted(unused) == []


def test_no_sentence_stands_in_the_code_that_speaks() -> None:
    found = []
    for path in modules():
        if path.relative_to(PACKAGE).parts[0] not in ("ui", "reports"):
            continue
        alone = docstrings(parsed(path))
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.expr) or node in alone:
                continue
            text = text_of(node)
            if text is not None and re.search(r"[A-Za-z]{2,}[,:]? +[A-Za-z]{2,}|[A-Za-z]{3,}[.:!?]? $", text):
                found.append((text, f"{name_of(path)}:{node.lineno}"))
    assert [where for text, where in found if text not in NOT_SENTENCES] == []
    assert set(NOT_SENTENCES) <= {text for text, _ in found}
    for tree in templates():
        markup = "".join(one.data for one in tree.find_all(nodes.TemplateData))
        assert re.findall("[A-Za-z]{2,}", re.sub("<[^>]*>", "", markup)) == []


def test_chinese_stands_only_in_catalogs_and_guides() -> None:
    files = [*modules(), *scripts()]
    for pattern in ("*.toml", "*.sh", "*.yml", "*.yaml", "*.cfg", "justfile", ".ci/*", ".github/**/*"):
        files += [path for path in ROOT.glob(pattern) if path.is_file()]
    files += [path for path in PACKAGE.rglob("*.toml") if "messages" not in path.parts]
    assert [name_of(path) for path in files if CJK.search(path.read_text(encoding="utf-8", errors="replace"))] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_end_without_a_stop(language: str) -> None:
    ends = ("\u3002", ".")
    assert [key for key in keys(language) if template(language, key).endswith(ends) and "…" not in key] == []
