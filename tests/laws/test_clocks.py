"""Nothing is decided by a clock that somebody can set: where one is read, it is written down why it may be."""

from __future__ import annotations

import ast

from tests.laws.source_tree import PACKAGE, modules, parsed

READS = {"time", "now", "today", "utcnow", "localtime", "gmtime", "st_mtime", "st_mtime_ns", "st_ctime", "getmtime"}
OF = {"time", "datetime", "date"}
# Module -> what it reads the time for, beside the `time` that an event is told with.
REASONS = {
    "families/locate.py": "the order in which a person is offered what lies in the hub's cache",
    "families/identity.py": "whether a hash that is kept in memory is still the file's, together with the size",
    "data/seen.py": "when a picture file was changed last",
    "reports/making.py": "the names and the date of a report",
    "reports/tensorboard.py": "what TensorBoard's own format says of when a file was begun",
    "planning/probe.py": "seconds of a probe, which make an estimate",
    "runtime/progress.py": "which LoRA of another trainer is named",
    "session/begin.py": "the names of backups",
    "session/build.py": "what the export says of when training began",
    "session/export.py": "what the export says of when training ended",
    "session/outputs.py": "the names of states and backups",
    "reading/files.py": "which reports are those of an older run in the same folder",
    "reading/status.py": "the age of a heartbeat that is shown",
    "ui/which_run.py": "which of several runs in a folder is shown",
    "ui/logs.py": "the age of a heartbeat that is shown",
}


def reads_the_wall_clock(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute) or node.attr not in READS:
        return False
    return node.attr.startswith(("st_", "get")) or (isinstance(node.value, ast.Name) and node.value.id in OF)


def places() -> set[str]:
    found = set()
    for path in modules():
        tree = parsed(path)
        told = {
            id(word.value.func)
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            for word in call.keywords
            if word.arg == "time" and isinstance(word.value, ast.Call)
        }
        if any(reads_the_wall_clock(node) and id(node) not in told for node in ast.walk(tree)):
            found.add(path.relative_to(PACKAGE).as_posix())
    return found


def test_each_has_a_reason() -> None:
    assert places() - set(REASONS) == set()


def test_no_reason_has_outlived_its_place() -> None:
    assert set(REASONS) - places() == set()


def test_this_law_can_fail() -> None:
    for text in ("time.time() > limit", "datetime.now()", "path.stat().st_mtime", "f(now=time.time())"):
        assert any(map(reads_the_wall_clock, ast.walk(ast.parse(text))))
    for text in ("time.monotonic()", "event.time", "self._now()", "pace.time"):
        assert not any(map(reads_the_wall_clock, ast.walk(ast.parse(text))))
