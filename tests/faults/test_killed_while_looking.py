"""SIGKILL of the real worker while it looks at what was learned and keeps the best: what it had measured and chosen in
the end is what a run does that nothing happened to, and the file of the best step is the one that is told.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import safetensors.torch

from lorasmith.errors import ExitCode
from lorasmith.evaluation import best, evaluator
from lorasmith.evaluation.evaluator import Evaluator
from lorasmith.evaluation.samples import generate
from lorasmith.runs.durable import write_atomically
from lorasmith.runs.events import BestChosen, Evaluated, WorkerRestarted
from lorasmith.runs.ledger import Ledger
from lorasmith.runtime.supervisor import Supervisor
from tests.end_to_end.workshop import Workshop, digest
from tests.faults.forked_worker import ForkedWorker
from tests.faults.harms import is_first
from tests.faults.looked_at import EVALUATED, check_best, know_losses, told

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")
COUNT, DIES_AT = 8, 4
LOSSES = {2: 0.5, 4: 0.3, 6: 0.6, 8: 0.7}  # step 4 is the best, and there it dies
VALUES: dict[tuple[str, str], Any] = {**EVALUATED, ("cadence", "save_every"): 2, ("cadence", "keep_states"): 2}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def while_measuring() -> None:
    def generating(*given: Any, **more: Any) -> Any:
        if at["step"] == DIES_AT:
            die()
        return generate(*given, **more)

    at = following_steps()
    patch.object(evaluator, "generate", generating).start()


def before_it_is_told() -> None:
    """Measured, and not in the ledger."""
    before_line(lambda event: isinstance(event, Evaluated) and event.step == DIES_AT)


def before_it_is_kept() -> None:
    """In the ledger, and not looked at."""
    at = following_steps()

    def write(*given: Any, **more: Any) -> Any:
        if at["step"] == DIES_AT:
            die()
        return write_atomically(*given, **more)

    patch.object(best, "write_atomically", write).start()


def before_the_choice_is_told() -> None:
    """The file is in place."""
    before_line(lambda event: isinstance(event, BestChosen) and event.step == DIES_AT)


def following_steps() -> dict[str, int]:
    at = {"step": 0}
    real = Evaluator.evaluate

    def evaluate(self: Evaluator, state: Any, *given: Any, **more: Any) -> Any:
        at["step"] = state.step
        return real(self, state, *given, **more)

    Evaluator.evaluate = evaluate
    return at


def before_line(is_it: Callable[[Any], bool]) -> None:
    real = Ledger.append

    def append(self: Ledger, event: Any) -> None:
        if is_it(event):
            die()
        real(self, event)

    Ledger.append = append


PLACES = {
    one.__name__: one for one in (while_measuring, before_it_is_told, before_it_is_kept, before_the_choice_is_told)
}


@pytest.fixture(autouse=True)
def known_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    know_losses(monkeypatch, LOSSES)


@pytest.mark.ci
@pytest.mark.parametrize("place", PLACES)
def test_the_best_is_what_it_would_have_been(make_workshop: Callable[[str], Workshop], place: str) -> None:
    def harm(arguments: list[str]) -> None:
        if is_first(arguments):
            PLACES[place]()

    undisturbed, workshop = make_workshop("undisturbed"), make_workshop("killed")
    undisturbed.new(COUNT, VALUES)
    supervisor = Supervisor(workshop.start_new(COUNT, VALUES), launch=partial(ForkedWorker, harm=harm))
    restarts = [event for event in supervisor.events() if isinstance(event, WorkerRestarted)]
    assert (supervisor.exit_code, len(restarts)) == (ExitCode.FINISHED, 1)
    assert told(workshop) == told(undisturbed)
    kept, like = (safetensors.torch.load_file(one.run.export("last-best")) for one in (workshop, undisturbed))
    assert digest(kept) == digest(like)
    assert workshop.run.export("last-best").read_bytes() == workshop.run.export("last", 4).read_bytes()
    check_best(workshop)
    assert workshop.states() == undisturbed.states() == [8, 6, 4]
    assert workshop.losses() == undisturbed.losses()
    assert workshop.digest() == undisturbed.digest()
