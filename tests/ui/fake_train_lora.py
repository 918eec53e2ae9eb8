"""`train_lora.py` over an engine that trains nothing: what the tests of the terminal start."""

import sys
from functools import partial

from lorasmith.errors import ExitCode
from lorasmith.ui import cli, train
from tests.ui.fake_engine import FakeEngine

if __name__ == "__main__":
    arguments = sys.argv[1:]
    fake = FakeEngine()
    if "--test-slow" in arguments:
        arguments.remove("--test-slow")
        fake.supervisor["pause"] = 0.08
    if "--test-failure" in arguments:
        arguments.remove("--test-failure")
        fields = {"step": 3, "pictures": ["a.png", "b.png"], "timesteps": [1, 2]}
        fake.supervisor["failure"] = ("non_finite", fields, ExitCode.NON_FINITE)
    train.train = partial(train.train, engine=fake.engine())
    sys.exit(cli.main(["train", *arguments], script="python train_lora.py"))
