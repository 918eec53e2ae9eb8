"""`python -m lorasmith …` is `lorasmith …`."""

import sys

from lorasmith.ui.cli import main

if __name__ == "__main__":
    sys.exit(main())
