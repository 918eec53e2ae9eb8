"""A plan and the run it is for: nothing is changed by the one, and the other does what the one has said."""

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from lorasmith.config import Request
from lorasmith.errors import ExitCode
from lorasmith.planning.estimate import ProbeResult
from lorasmith.planning.plan import RunPlan
from lorasmith.runtime.preflight import Start, continued_run
from lorasmith.runtime.supervisor import Supervisor
from lorasmith.ui.translator import Translator
from lorasmith.ui.watching import watch
from tests.end_to_end.trial import tried
from tests.end_to_end.workshop import InProcess, Values, Workshop, tree

PROJECT = Path(__file__).parents[2]
EVALUATED: Values = {("cadence", "save_every"): 2, ("evaluation", "every"): None, ("evaluation", "examples"): 2}


def written_at(folder: Path) -> dict[str, int]:
    """When each file was written last: also one that holds what it held before."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def assert_as_planned(workshop: Workshop, made: RunPlan, before: dict[str, int]) -> None:
    """Every file written since has one of the planned patterns, and each pattern but the cache's has a file."""
    written = [path for path, at in written_at(workshop.folder).items() if before.get(path) != at]
    times = [re.sub(r"[0-9]{8}_[0-9]{6}(_[0-9]+)?", "YYYYMMDD_HHMMSS", path) for path in written]
    patterns = [str(Path(path).relative_to(workshop.folder)) for path in made.files]
    assert [path for path in times if not any(fnmatch(path, pattern) for pattern in patterns)] == []
    unused = [pattern for pattern in patterns if not any(fnmatch(path, pattern) for path in times)]
    assert [pattern for pattern in unused if "cache" not in pattern] == []


def ran(start: Start) -> int:
    supervisor = Supervisor(start, launch=InProcess)
    return watch(start, supervisor, words=Translator("en"), command="lorasmith train", verbose=False)


@pytest.fixture
def own_cache(workshop: Workshop) -> Workshop:
    """As the first time in a folder: nothing is encoded yet."""
    (workshop.folder / ".lorasmith_cache").unlink()
    return workshop


@pytest.mark.ci
def test_a_run_writes_what_was_planned(own_cache: Workshop) -> None:
    start = own_cache.start_new(5, EVALUATED)
    before, times = tree(own_cache.folder), written_at(own_cache.folder)
    made = tried(start)
    assert tree(own_cache.folder) == before
    assert ran(start) == ExitCode.FINISHED
    assert_as_planned(own_cache, made, times)

    again = own_cache.start_new(3, {**EVALUATED, ("dataset", "hold_out"): 2})
    before, times = tree(own_cache.folder), written_at(own_cache.folder)
    made = tried(again)
    assert tree(own_cache.folder) == before
    assert isinstance(made.measured, ProbeResult)
    assert (made.measured.pictures_to_encode, made.measured.captions_to_encode) == (0, 0)
    assert ran(again) == ExitCode.FINISHED
    assert_as_planned(own_cache, made, times)


@pytest.mark.slow
def test_going_on_writes_what_was_planned(workshop: Workshop) -> None:
    assert ran(workshop.start_new(4, EVALUATED)) == ExitCode.FINISHED
    request = Request(steps=3)
    start = continued_run(workshop.run, {}, request, from_state="2", here=workshop.folder)
    before, times = tree(workshop.folder), written_at(workshop.folder)
    made = tried(start)
    assert (made.is_new, made.first_step, made.stop_at) == (False, 2, 5)
    assert tree(workshop.folder) == before
    assert ran(start) == ExitCode.FINISHED
    assert_as_planned(workshop, made, times)


@pytest.mark.slow
def test_as_a_person_types_it(workshop: Workshop) -> None:
    """With a trial, in processes of its own."""
    here = workshop.folder
    (here / "lorasmith.toml").write_text(f"base_model = {json.dumps(str(workshop.base_model))}\n")
    before = tree(here)
    command = [sys.executable, "-m", "lorasmith", "plan", "--steps", "20", "--json"]
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    plain = json.loads(done.stdout)
    assert plain["time"]["total"] > plain["time"]["starting"] > 0
    assert plain["measured"]["peak_memory"] > 100e6
    assert tree(here) == before
