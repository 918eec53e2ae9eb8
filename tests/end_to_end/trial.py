"""A plan with its trial made in this process."""

import os

from lorasmith.planning import plan, probe, probing
from lorasmith.planning.plan import RunPlan
from lorasmith.runtime.start import Start


class HereAndNow:
    """Stands in for the process of a trial."""

    def __init__(self, arguments: list[str]) -> None:
        cut = arguments.index("--supervisor") + 1
        self._arguments = [*arguments[:cut], str(os.getppid()), *arguments[cut + 1 :]]
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._status is None:
            self._status = probe.main(self._arguments)
        return self._status

    def poll(self) -> int | None:
        return self._status

    def kill(self) -> None:
        raise AssertionError("nothing to kill")


def tried(start: Start) -> RunPlan:
    found = plan.look(start)
    return plan.plan_of(start, found, probing.probe(start, found, launch=HereAndNow))  # type: ignore[arg-type]
