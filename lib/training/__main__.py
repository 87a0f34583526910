"""python -m lib.training: see `lib.training.main`."""

from lib.training import main

if __name__ == "__main__":
    main()
