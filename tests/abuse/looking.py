"""The parent's look at pictures, in a process of its own with little memory: `python -m tests.abuse.looking FOLDER`.

Prints {file: [reason, seconds, MiB]} as JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path

from lorasmith.data import images
from tests.data.drawing import problem_of

MAX_MIB = 1024  # of address space: what the libraries take, and one picture of 9000 x 9000


def main(folder: str) -> None:
    images._formats()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MIB << 20, MAX_MIB << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    found = {}
    for path in sorted(Path(folder).iterdir()):
        before, began = peak(), time.process_time()
        problem = problem_of(path)
        seconds = time.process_time() - began
        found[path.name] = [problem.reason if problem else "", seconds, (peak() - before) / 1024]
    assert "torch" not in sys.modules
    sys.stdout.write(json.dumps(found))


def peak() -> int:
    """KiB this process has ever held at once: it can only grow, so a picture that needs much shows. Not `ru_maxrss`,
    which begins with what pytest held."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


if __name__ == "__main__":
    main(sys.argv[1])
