"""`python flux_train_network.py …` takes the command line of sd-scripts' flux_train_network.py, from a clone."""

import sys

from lorasmith.ui.cli import main

if __name__ == "__main__":
    sys.exit(main(["train-network", *sys.argv[1:]], script="python flux_train_network.py"))
