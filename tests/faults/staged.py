"""A scene on its stage: its folder, what an undisturbed run makes of it, and each case from there to the run's end."""

import shutil
from pathlib import Path

from lorasmith.errors import ExitCode
from lorasmith.evaluation.best import NO_ROOM
from lorasmith.runs.events import Warned
from lorasmith.runs.ledger import read_events
from lorasmith.runs.states import find_states, newest_good
from tests.end_to_end.workshop import Workshop
from tests.faults.looked_at import check_best, told
from tests.faults.scenes import Scene, check_nothing_is_left_over, check_states, copy_of, files_of, result_of

WITHOUT_ROOM = {NO_ROOM, "export_left_out"}  # no LoRA that could be the best: said where it happens


class Stage:
    """A scene with its folder, what an undisturbed run makes of it, and the points that one comes past."""

    def __init__(self, scene: Scene, template: Workshop, tmp_path: Path) -> None:
        self.scene = scene
        self._template = template
        self._folder = tmp_path / f"{scene.name}-cases"
        scene.prepare(template)
        self._old = files_of(template)
        states, (good, _) = find_states(template.run.root)[0], newest_good(template.run.root)
        self.damaged = None if states[:1] in ([], [good]) else states[0].path.relative_to(template.folder)
        self.undisturbed = copy_of(template, tmp_path / f"{scene.name}-undisturbed")
        self.points = scene.points(self.undisturbed, tmp_path / f"{scene.name}-trace.json")
        self.expected = result_of(self.undisturbed)
        self.events = read_events(self.undisturbed.run.ledger)

    def check(self, fault: str, exits: set[int]) -> None:
        """One case, from a folder of its own to the end of the run."""
        shutil.rmtree(self._folder, ignore_errors=True)
        workshop = copy_of(self._template, self._folder)
        status = self.scene.disturbed(workshop, fault)
        assert status in exits, status
        check_states(workshop, damaged=None if self.damaged is None else self._folder / self.damaged)
        if self.damaged is None:
            assert self._old <= files_of(workshop), "something of the old run is lost"
        assert self.scene.go_on(workshop) == ExitCode.FINISHED
        self.check_result(workshop)
        check_nothing_is_left_over(workshop)

    def check_result(self, workshop: Workshop) -> None:
        """Of a run that has come to its end."""
        assert result_of(workshop) == self.expected


class LookedAtStage(Stage):
    """Also what was measured is what it would have been, and which step is the best."""

    def check_result(self, workshop: Workshop) -> None:
        super().check_result(workshop)
        check_best(workshop)
        expected = told(self.undisturbed)
        if any(isinstance(event, Warned) and event.code in WITHOUT_ROOM for event in workshop.events()):
            expected = [one for one in expected if one in told(workshop)]
            assert len(expected) == len(told(self.undisturbed)) - 1, "one choice fewer"
        assert told(workshop) == expected, [told(workshop), expected]
