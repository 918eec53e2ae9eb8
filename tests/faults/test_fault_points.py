"""Every fault point × kill, exception, no space: what lies there then is the state before or the state after, at most
one save interval is lost, and going on ends with the bytes of a run that nothing happened to.

By default a part drawn by a seed, with every point in it; `-m long` has every occurrence of every point, or ten times
FAULT_RUNS of them. FAULT_SEED=N draws another part, and FAULT_CASE=scene/point:occurrence:action does that one alone.
"""

import os
import random
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lorasmith.engine.state import TrainState
from lorasmith.errors import ExitCode
from lorasmith.faults import POINTS, fault_point
from lorasmith.runs.layout import RunFolder
from lorasmith.runs.states import MANIFEST, manifest_bytes
from lorasmith.session import checkpoint, outputs
from lorasmith.session.checkpoint import StateFacts
from tests.end_to_end.workshop import Workshop
from tests.faults import forked
from tests.faults.followed import Followed
from tests.faults.looked_at import know_losses
from tests.faults.scenes import LOOKED_AT, SCENES
from tests.faults.staged import LookedAtStage, Stage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork there")

SEED = int(os.environ.get("FAULT_SEED", "6"))
MAX_TENS = os.environ.get("FAULT_RUNS", "")
ACTIONS = ("kill", "exception", "no_space")
# What a start may end with: a crash of the worker is restarted, one of the supervisor is a traceback.
EXITS = {
    "kill": {-9},
    "exception": {0, forked.CRASHED, int(ExitCode.CRASHED)},
    "no_space": {0, int(ExitCode.BAD_INPUT), int(ExitCode.NO_RESOURCE), forked.CRASHED},
}
COPYING = ("copy.", "move.")  # what another disk makes a difference to
LOSSES = {2: 0.5, 4: 0.3, 5: 0.6}


Stages = dict[str, Stage | Followed]


@pytest.fixture(scope="module")
def stages(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    from lorasmith.demo.miniature import draw_pictures
    from lorasmith.reports import loss_log, tensorboard  # noqa: F401 - before the fork

    place = tmp_path_factory.mktemp("stages")
    pictures = place / "pictures"
    draw_pictures(pictures, 4, seed=1, size=(64, 64), repeats=1)
    made: Stages = {}
    with pytest.MonkeyPatch.context() as patch:
        know_losses(patch, LOSSES)
        for scene in SCENES:
            folder = place / scene.name
            folder.mkdir()
            if scene.is_cold:
                shutil.copytree(pictures, folder / "lora_train_set")
            else:
                (folder / "lora_train_set").symlink_to(pictures)  # and the cache lies beside where that leads
            kind = LookedAtStage if scene.name == LOOKED_AT else Stage
            made[scene.name] = kind(scene, Workshop(folder, base_model, patch), place)
        cold = made["cold"]
        assert isinstance(cold, Stage)
        made["followed"] = Followed(cold.events, place)
        yield made


def cases(stages: Stages) -> list[tuple[str, str, int]]:
    """Every (scene, point, occurrence); of all scenes but the first two only what makes the difference."""
    found = []
    for name, stage in stages.items():
        points = stage.points
        if name == "other_disk":
            points = [one for one in points if one[0].startswith(COPYING)]
        elif name == "cold":
            points = points[: points.index(("promotion.planned", 1))]
        elif name == LOOKED_AT:
            points = list(_around_looking(points))
        found += [(name, point, occurrence) for point, occurrence in points]
    return found


def _around_looking(points: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """From the end of each step that is looked at to the next step."""
    after: list[tuple[str, int]] = []
    for point in [*points, ("step.boundary", 0)]:
        if point[0] == "step.boundary":
            if any(name == "evaluation.begun" for name, _ in after):
                yield from after
            after = []
        elif after or point[0] == "step.computed":
            after.append(point)


def drawn(stages: Stages) -> list[tuple[str, str]]:
    """Every point once, at an occurrence and with an action by the seed."""
    draw = random.Random(SEED)
    chosen = []
    for point in sorted(POINTS):
        scene, _, occurrence = draw.choice([one for one in cases(stages) if one[1] == point])
        chosen.append((scene, f"{point}:{occurrence}:{draw.choice(ACTIONS)}"))
    return chosen


def all_of(stages: Stages) -> list[tuple[str, str]]:
    return [(scene, f"{point}:{number}:{action}") for scene, point, number in cases(stages) for action in ACTIONS]


def check_one(stages: Stages, scene: str, fault: str) -> None:
    stages[scene].check(fault, EXITS[fault.rpartition(":")[2]])


def check_all(stages: Stages, chosen: list[tuple[str, str]]) -> None:
    """Goes through all of them, whatever fails, and says how each failure is had again."""
    failed = []
    for scene, fault in chosen:
        try:
            check_one(stages, scene, fault)
        except AssertionError as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            failed.append(f"FAULT_CASE={scene}/{fault}  {place.filename}:{place.lineno} {place.line} {error}"[:400])
    assert not failed, f"{len(failed)} of {len(chosen)} cases (FAULT_SEED={SEED}):\n" + "\n".join(failed)


@pytest.mark.ci
def test_every_point_is_reached_by_a_small_run(stages: Stages) -> None:
    assert {point for _, point, _ in cases(stages)} == set(POINTS)


@pytest.mark.ci
def test_going_on_after_a_damaged_state_equals_a_run_without_one(stages: Stages) -> None:
    """The scenes are no worlds of their own: one target, one result."""
    assert stages["continued"].expected == stages["new"].expected == stages["other_disk"].expected
    assert stages["cold"].expected == stages["new"].expected


@pytest.mark.ci
@pytest.mark.timeout(2400)  # each case has its own
def test_each_point_once(stages: Stages) -> None:
    case = os.environ.get("FAULT_CASE", "")
    chosen = drawn(stages)
    assert {fault.partition(":")[0] for _, fault in chosen} == set(POINTS)
    if case:
        scene, _, fault = case.partition("/")
        check_one(stages, scene, fault)
        return
    check_all(stages, chosen)


def save_in_place(state: TrainState, run: RunFolder, facts: StateFacts, final: Path) -> Any:
    """A writer as many have it: straight under the final name."""
    final.mkdir()
    for name, data in checkpoint._files_of(state, facts):
        (final / name).write_bytes(data)
        fault_point("state.file")
    (final / MANIFEST).write_bytes(manifest_bytes(final, step=state.step, identity=facts.identity))
    return final, ""


@pytest.mark.ci
def test_a_writer_in_place_would_be_found(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "save_state", save_in_place)
    with pytest.raises(AssertionError):
        check_one(stages, "new", "state.file:8:kill")


@pytest.mark.ci
def test_a_state_without_its_optimizer_would_be_found(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    restore = TrainState.restore

    def forget(self: TrainState, counters: Any, adapter: Any, optimizer: Any, average: Any = None) -> None:
        restore(self, counters, adapter, {**optimizer, "state": {}}, average)

    monkeypatch.setattr(TrainState, "restore", forget)
    with pytest.raises(AssertionError):
        check_one(stages, "new", "step.told:4:kill")


@pytest.mark.long
@pytest.mark.timeout(0)
@pytest.mark.parametrize("scene", [*(one.name for one in SCENES), "followed"])
def test_every_occurrence_of_every_point(stages: Stages, scene: str) -> None:
    chosen = all_of(stages)
    if MAX_TENS:
        chosen = random.Random(SEED).sample(chosen, min(10 * int(MAX_TENS), len(chosen)))
    chosen = [one for one in chosen if one[0] == scene]
    began = time.monotonic()
    check_all(stages, chosen)
    sys.stdout.write(f"\n{scene}: {len(chosen)} cases, {time.monotonic() - began:.0f} s\n")
