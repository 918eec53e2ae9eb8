"""`python train_lora.py …` is `lorasmith train …`, from a clone."""

import sys

from lorasmith.ui.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], script="python train_lora.py"))
