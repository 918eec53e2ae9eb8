"""All that knows no torch can be imported where Windows leaves things out."""

import configparser
import subprocess
import sys

from tests.laws.source_tree import ROOT

WITHOUT = """
import importlib, os, pkgutil, signal, subprocess, sys, types
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=print)
for name in ("killpg", "setsid", "getpgid", "fork"):
    delattr(os, name)
for name in ("SIGKILL", "SIGUSR1", "SIGHUP"):
    delattr(signal, name)
for name in sys.argv[1:]:
    found = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(found, "__path__", []), name + "."):
        importlib.import_module(module.name)
assert "torch" not in sys.modules
"""


def test_it_imports_without_what_windows_lacks() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter", encoding="utf-8")
    names = contracts["importlinter:contract:no-torch-above-the-worker"]["source_modules"].split()
    assert {"lorasmith.ui", "lorasmith.reports", "lorasmith.runs.locks"} < set(names)
    done = subprocess.run([sys.executable, "-c", WITHOUT, *names], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
