"""python -m lib.grid: see `lib.grid.main`."""

import sys

from lib.grid import main

if __name__ == "__main__":
    sys.exit(main())
