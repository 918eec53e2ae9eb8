"""`python check_training_logs.py …` is `lorasmith logs …`, from a clone."""

import sys

from lorasmith.ui.cli import main

if __name__ == "__main__":
    sys.exit(main(["logs", *sys.argv[1:]], script="python check_training_logs.py"))
