"""python -m lib.distillation: see `lib.distillation.main`."""

from lib.distillation import main

if __name__ == "__main__":
    main()
