"""A plan whose probe runs in this process."""

import os

from lorasmith.planning import plan, probe, probe_process
from lorasmith.planning.plan import RunPlan
from lorasmith.runtime.preflight import Start


class HereAndNow:
    """Stands in for the process of a probe."""

    def __init__(self, arguments: list[str]) -> None:
        cut = arguments.index("--supervisor") + 1
        self._arguments = [*arguments[:cut], str(os.getppid()), *arguments[cut + 1 :]]
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self._status is None:
            self._status = probe_process.main(self._arguments)
        return self._status

    def poll(self) -> int | None:
        return self._status

    def kill(self) -> None:
        raise AssertionError("nothing to kill")


def tried(start: Start) -> RunPlan:
    found = plan.scan_of(start)
    return plan.plan_of(start, found, probe.probe(start, found, launch=HereAndNow))
