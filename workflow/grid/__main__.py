"""python -m workflow.grid: see `workflow.grid.main`."""

import sys

from workflow.grid import main

if __name__ == "__main__":
    sys.exit(main())
