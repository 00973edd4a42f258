"""Entry point of `python -m segjax`."""

import sys

from segjax.cli import main

if __name__ == "__main__":
    sys.exit(main())
