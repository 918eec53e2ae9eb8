"""A file that would run something, wherever this program reads a file: nothing runs.

An audit hook ends the process where anything is run; loaded as pickle does, each of these files trips it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.abuse.payloads import MARK, PAYLOADS, STATE_FILES, TRIPPED
from tests.end_to_end.refusals import Desk

ROOT = Path(__file__).resolve().parents[2]


def child(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.abuse.payloads", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    folder = arguments[-1]
    environment |= {"TMPDIR": folder, "XDG_CACHE_HOME": folder}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.parametrize("name", PAYLOADS)
def test_loaded_as_pickle_does_it_would_run(tmp_path: Path, name: str) -> None:
    done = child("plain", name, str(tmp_path))
    assert done.returncode == TRIPPED, done.stderr


@pytest.mark.ci
def test_nothing_runs(desk: Desk, tmp_path: Path) -> None:
    shutil.copytree(desk.folder, tmp_path / "desk", symlinks=True)
    shutil.rmtree(tmp_path / "desk" / ".lorasmith_cache")
    done = child("ours", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(tmp_path.rglob(MARK))
    found = json.loads(done.stdout.splitlines()[-1])
    for name in PAYLOADS:
        mine = {where.partition(": ")[2]: code for where, code in found.items() if where.startswith(f"{name}: ")}
        base = {where: code for where, code in mine.items() if where.startswith(("plain", "archive", "folder"))}
        assert set(base.values()) == {"model_pickle_refused"}, base
        assert (mine["start"], mine["picture"]) == ("lora_pickle", "dataset_problems")
        assert mine["caption"] == "dataset_problems"
        starts = {code for where, code in mine.items() if where.startswith("start ")}
        assert starts <= {"lora_pickle", "lora_irregular"}
        assert mine["cache"] == "exit 0, 0 of 6 believed"
        unsigned = {code for where, code in mine.items() if where.endswith("signed: False")}
        assert unsigned == {"passed over"}
        signed = {where: code for where, code in mine.items() if where.endswith("signed: True")}
        assert len(signed) == len(STATE_FILES)
