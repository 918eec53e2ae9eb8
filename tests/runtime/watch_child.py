"""A supervisor as a process of its own, over tests/runtime/child.py: `python -m tests.runtime.watch_child MODE RUN N`.

Prints the name of each event with its step as it comes, and the exit code as the last line.
"""

import subprocess
import sys
from pathlib import Path

from lorasmith.config import RunConfig
from lorasmith.run_folder import RunFolder
from lorasmith.runtime.start import Start
from lorasmith.runtime.supervisor import Supervisor


def main(mode: str, folder: str, count: str) -> None:
    def launch(arguments: list[str]) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.runtime.child", mode, *arguments]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    start = Start(RunFolder(Path(folder)), RunConfig(), int(count), is_new=True, first_step=0)
    supervisor = Supervisor(start, launch=launch)
    for event in supervisor.events():
        if event is not None:
            say(f"{type(event).__name__} {getattr(event, 'step', '')}")
    say(str(int(supervisor.exit_code)))
    assert "torch" not in sys.modules


def say(line: str) -> None:
    sys.stdout.write(line.strip() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
