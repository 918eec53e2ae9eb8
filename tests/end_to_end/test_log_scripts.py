"""What a person double-clicks or types to train and to see the logs: the scripts at the root, run for real where that
can be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.reading.made_runs import finished_run

PROJECT = Path(__file__).parents[2]
BAT = PROJECT / "查看訓練日誌.bat"
TRAINING_BAT = PROJECT / "開始訓練.bat"
BATS = pytest.mark.parametrize("bat", [BAT, TRAINING_BAT], ids=["logs", "training"])
STARTED = {BAT: 'check_training_logs.py" --menu', TRAINING_BAT: 'train_lora.py"'}
SH = PROJECT / "view_training_logs.sh"
ON_POSIX = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="needs bash")
PLAIN = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")  # of the environment: no virtual one

STUB = """#!/bin/sh
printf '%s\\n' "$(basename "$0")" "$@" "in $PWD" >> "$STUB_LOG"
case "$*" in *version_info*) exit "${STUB_OLD:-0}";; esac
exit 7
"""


def stub(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STUB)
    path.chmod(0o755)
    return path


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The scripts in a folder whose name is awkward."""
    folder = tmp_path / "my (first) lora & more"
    folder.mkdir()
    for path in (SH, BAT, TRAINING_BAT, PROJECT / "check_training_logs.py"):
        shutil.copy(path, folder)
    return folder


def run_sh(clone: Path, *arguments: str, cwd: Path, **environment: str) -> tuple[int, list[list[str]]]:
    """Its exit status, and what each Python that it called was given."""
    log = cwd.parent / "stub.log"
    log.unlink(missing_ok=True)
    plain = {name: os.environ[name] for name in PLAIN if name in os.environ}
    done = subprocess.run(
        ["bash", str(clone / SH.name), *arguments], cwd=cwd, env={**plain, "STUB_LOG": str(log), **environment}
    )
    calls: list[list[str]] = [[]]
    for line in log.read_text().splitlines() if log.exists() else []:
        calls[-1].append(line)
        if line.startswith("in "):
            calls.append([])
    return done.returncode, calls[:-1]


# -- the .sh -----------------------------------------------------------------------------------------


@ON_POSIX
def test_the_python_of_the_environment_comes_first(clone: Path, tmp_path: Path) -> None:
    active, beside, in_path = (stub(tmp_path / name / "bin" / "python") for name in ("active", "b", "path"))
    shutil.copytree(beside.parents[1], clone / ".venv")
    search = {"PATH": f"{in_path.parent}:/usr/bin:/bin"}
    expected = ["python", str(clone / "check_training_logs.py"), "--menu", f"in {clone}"]
    status, calls = run_sh(clone, cwd=clone, VIRTUAL_ENV=str(active.parents[1]), **search)
    assert (status, calls[-1], len(calls)) == (7, expected, 2)
    shutil.rmtree(active.parents[1])
    assert run_sh(clone, cwd=clone, VIRTUAL_ENV=str(active.parents[1]), **search)[0] == 7
    shutil.rmtree(clone / ".venv")
    in_path.rename(in_path.with_name("python3"))
    status, calls = run_sh(clone, cwd=clone, **search)
    assert (status, calls[-1][0]) == (7, "python3")


@ON_POSIX
def test_a_python_that_is_too_old_is_passed_over(clone: Path, tmp_path: Path) -> None:
    for name in ("python", "python3"):
        stub(tmp_path / "path" / name)
    search = {"PATH": f"{tmp_path / 'path'}:/usr/bin:/bin", "STUB_OLD": "1"}
    status, calls = run_sh(clone, cwd=clone, **search)
    assert status == 2
    assert [call[0] for call in calls] == ["python3", "python"]


@ON_POSIX
def test_from_another_folder_it_is_the_run_beside_it_unless_there_is_one_here(clone: Path, tmp_path: Path) -> None:
    stub(clone / ".venv" / "bin" / "python")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run_sh(clone, cwd=elsewhere)[1][-1][-1] == f"in {clone}"
    _, calls = run_sh(clone, "--output", "a b", cwd=elsewhere)
    assert calls[-1][2:] == ["--menu", "--output", "a b", f"in {elsewhere}"]
    (elsewhere / "lora_output").mkdir()
    assert run_sh(clone, cwd=elsewhere)[1][-1][-1] == f"in {elsewhere}"


@ON_POSIX
def test_for_real_at_a_terminal(tmp_path: Path) -> None:
    import pexpect

    finished_run(tmp_path / "lora_output")
    environment = {**os.environ, "LORASMITH_LANG": "zh-TW", "TERM": "xterm-256color"}
    environment["VIRTUAL_ENV"] = str(Path(sys.prefix))
    child = pexpect.spawn(
        str(SH), cwd=str(tmp_path), env=environment, encoding="utf-8", timeout=120, dimensions=(40, 100)
    )
    child.expect("訓練完成，20/20 步")
    child.expect("3. 離開")
    child.sendline("2")
    child.expect("訓練完成，20/20 步")
    child.expect("3. 離開")
    child.sendline("1")
    child.expect("還沒有任何訓練")  # the made-up run has no event file
    child.expect("3. 離開")
    child.sendline("3")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


@ON_POSIX
def test_the_script_of_the_mission_works_from_a_clone(tmp_path: Path) -> None:
    finished_run(tmp_path / "lora_output")
    command = [sys.executable, str(PROJECT / "check_training_logs.py"), "--lang", "en"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "finished, 20 of 20 steps" in done.stdout


def test_the_sh_can_be_started_and_ends_its_lines_for_bash() -> None:
    assert os.name == "nt" or os.access(SH, os.X_OK)
    assert SH.read_bytes().startswith(b"#!/usr/bin/env bash\n") and b"\r" not in SH.read_bytes()


# -- the .bat ----------------------------------------------------------------------------------------


def lines_of(bat: Path) -> list[str]:
    return bat.read_bytes().decode("utf-8").split("\r\n")


@BATS
def test_the_bat_is_as_cmd_needs_it(bat: Path) -> None:
    data = bat.read_bytes()
    assert data.startswith(b"@echo off\r\n") and data.endswith(b"\r\n")  # no byte order mark
    assert data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r")
    lines = lines_of(bat)
    code_page = lines.index("chcp 65001 >nul")
    # cmd looks for labels byte by byte: signs of several bytes stand behind all of them, and behind the code page.
    first = next(number for number, line in enumerate(lines) if not line.isascii())
    assert code_page < first and not any(line.startswith(":") for line in lines[first:])
    assert all(len(line) < 1000 and "\t" not in line for line in lines)


@BATS
def test_the_labels_of_the_bat_are_balanced(bat: Path) -> None:
    lines = lines_of(bat)
    labels = [line[1:] for line in lines if line.startswith(":")]
    targets = {found for line in lines for found in re.findall(r"\bgoto (\w+)", line)}
    assert len(labels) == len(set(labels))
    assert targets == set(labels)
    previous = [lines[: lines.index(f":{label}")] for label in labels if label != "find"]
    for before in previous:  # nothing falls into a part that is only jumped to
        last = next(line for line in reversed(before) if line.strip())
        assert re.match(r"goto |exit /b", last), last


@BATS
def test_the_bat_quotes_every_path(bat: Path) -> None:
    for line in lines_of(bat):
        for name in ("%HERE%", "%PY%", "%~dp0", "%VIRTUAL_ENV%", "%CONDA_PREFIX%"):
            for found in re.finditer(re.escape(name), line):
                assert line[: found.start()].count('"') % 2 == 1, line
    assert sum("%*" in line for line in lines_of(bat)) == 3


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_keeps_its_line_ends(tmp_path: Path) -> None:
    """In a repository of its own: git asks nothing of a clone that belongs to somebody else."""
    shutil.copy(PROJECT / ".gitattributes", tmp_path)
    around = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of a hook
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, env=around, check=True)
    command = ["git", "check-attr", "text", "eol", "--", BAT.name, TRAINING_BAT.name, SH.name]
    done = subprocess.run(command, cwd=tmp_path, env=around, capture_output=True, text=True, check=True)
    assert done.stdout.count("eol: crlf") == 2 and done.stdout.count("eol: lf") == 1


COMPILER = "x86_64-w64-mingw32-gcc"
# Writes down how it was called; a Python that is new enough, or too old.
STUB_C = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>
int main(void) {
    char folder[MAX_PATH];
    FILE *log = fopen(getenv("STUB_LOG"), "ab");
    GetCurrentDirectoryA(MAX_PATH, folder);
    fprintf(log, "%s|%s|%s\n", GetCommandLineA(), folder, getenv("LORASMITH_LANG"));
    fclose(log);
    if (strstr(GetCommandLineA(), "version_info")) return getenv("STUB_OLD") ? 1 : 0;
    return 3;
}
"""


def test_the_window_of_a_training_stays_open() -> None:
    lines = lines_of(TRAINING_BAT)
    assert lines[lines.index(":end") :][:4] == [":end", 'set "STATUS=%ERRORLEVEL%"', "pause", "exit /b %STATUS%"]


@pytest.mark.special
@BATS
@pytest.mark.skipif(shutil.which("wine") is None or shutil.which(COMPILER) is None, reason=f"needs wine and {COMPILER}")
def test_the_bat_run_by_cmd(clone: Path, tmp_path: Path, bat: Path) -> None:
    (tmp_path / "stub.c").write_text(STUB_C)
    exe = tmp_path / "stub.exe"
    subprocess.run([COMPILER, "-O1", "-o", str(exe), str(tmp_path / "stub.c")], check=True)
    log, path = tmp_path / "stub.log", tmp_path / "path"
    path.mkdir()
    base = {**os.environ, "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all", "LC_ALL": "C.UTF-8"}
    base |= {"STUB_LOG": f"Z:{log}".replace("/", "\\"), "WINEPATH": f"Z:{path}".replace("/", "\\")}
    for name in ("VIRTUAL_ENV", "LORASMITH_LANG", "CONDA_PREFIX"):
        base.pop(name, None)
    here = f"Z:{clone}".replace("/", "\\")
    menu = f'"{here}\\{STARTED[bat]}'
    # cmd strips the quotes of a path with such signs on its command line, and wine's knows no Chinese inside a file.
    elsewhere = tmp_path / "from_elsewhere.bat"
    shutil.copy(clone / bat.name, clone / "ascii.bat")
    elsewhere.write_text(f'@call "{here}\\ascii.bat" %*\r\n', newline="")

    def called(*arguments: str, is_elsewhere: bool = False, **environment: str) -> tuple[int, list[str]]:
        log.unlink(missing_ok=True)
        command = ["wine", "cmd", "/c", elsewhere.name if is_elsewhere else bat.name, *arguments]
        how: dict[str, Any] = {"cwd": tmp_path if is_elsewhere else clone, "env": {**base, **environment}}
        status = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=200, **how).returncode
        lines = log.read_text().splitlines() if log.exists() else []
        assert all(line.endswith(f"|{here}|zh-TW") for line in lines)
        return status, [line.partition("|")[0].strip() for line in lines]

    assert called() == (2, [])  # no Python at all
    shutil.copy(exe, path / "python.exe")
    assert called("--output", "my run") == (3, [called()[1][0], f'python {menu} --output "my run"'])
    shutil.copy(exe, path / "py.exe")
    assert called()[1][-1] == called(is_elsewhere=True)[1][-1] == f"py -3 {menu}"
    status, calls = called(STUB_OLD="1")
    assert (status, [call.split()[0] for call in calls]) == (2, ["py", "python"])
    for folder in ("venv", ".venv"):
        (clone / folder / "Scripts").mkdir(parents=True)
        shutil.copy(exe, clone / folder / "Scripts" / "python.exe")
        assert called() == (3, [f'"{here}\\{folder}\\Scripts\\python.exe" {menu}'])
    (tmp_path / "active" / "Scripts").mkdir(parents=True)
    shutil.copy(exe, tmp_path / "active" / "Scripts" / "python.exe")
    active = f"Z:{tmp_path / 'active'}".replace("/", "\\")
    assert called(VIRTUAL_ENV=active) == (3, [f'"{active}\\Scripts\\python.exe" {menu}'])
