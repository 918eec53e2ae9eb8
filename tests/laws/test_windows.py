"""What a person touches can be imported where Windows leaves things out."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.laws.source_tree import PACKAGE, ROOT, modules

WITHOUT = """
import os, signal, sys, types
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
sys.modules["msvcrt"] = types.SimpleNamespace()
for name in ("killpg", "setsid", "getpgid", "fork"):
    delattr(os, name)
for name in ("SIGKILL", "SIGUSR1", "SIGHUP"):
    delattr(signal, name)
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
assert "torch" not in sys.modules
"""


def test_user_interface_and_reports_import_without_what_windows_lacks() -> None:
    names = []
    for path in modules():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1] in ("ui", "reports", "messages", "config") and path.parent != PACKAGE:
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *names],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
