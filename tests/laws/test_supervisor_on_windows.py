"""Nobody here has Windows: the supervisor's tests also pass without what it lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
RESTARTS = "tests/end_to_end/test_restarts.py"


@pytest.mark.ci
@pytest.mark.skipif(os.name == "nt", reason="there the supervisor's own tests are the proof")
def test_the_supervisor_without_fcntl_killpg_and_sigkill() -> None:
    options = ["-q", "-p", "tests.runtime.as_on_windows", "-p", "no:cacheprovider"]
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *options,
            "tests/runtime/test_supervisor.py",
            "tests/end_to_end/test_restarts.py",
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-3000:]
    assert "[100%]" in found.stdout
