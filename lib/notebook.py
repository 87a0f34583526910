"""What every notebook starts with: threads, figures, progress, and errors of one line."""

import os
import sys
import warnings
from collections.abc import Callable

from IPython.core.pylabtools import select_figure_formats
from IPython.display import display
from matplotlib.figure import Figure

from lib import runtime
from lib.errors import ReproError

__all__ = ["follow", "setup", "shows_progress"]


def setup() -> None:
    """Threads, figures as pictures, and errors of the user's own as one line; call it first.

    An error of `lib.errors` still fails the cell, and papermill with it; only its traceback goes.
    """
    runtime.prepare()
    warnings.filterwarnings("ignore", message="IProgress not found")  # text bars serve as well
    shell = _shell()
    if shell is not None:
        shell.set_custom_exc((ReproError,), _one_line)
        select_figure_formats(shell, {"png"})


def shows_progress() -> bool:
    """Whether progress bars are wanted: not where `TQDM_DISABLE` is set, as in stored notebooks."""
    return not os.environ.get("TQDM_DISABLE")


def follow(draw: Callable[[], Figure]) -> Callable[[dict], None]:
    """A callback for `Trainer.run` that shows `draw()`, and draws it again in the same place."""
    shown: list = []

    def redraw(_row: dict) -> None:
        if not shown:
            shown.append(display(draw(), display_id=True))
        elif shown[0] is not None:
            shown[0].update(draw())

    return redraw


def _shell():
    """The running IPython, None in a plain Python."""
    module = sys.modules.get("IPython")
    return None if module is None else module.get_ipython()


def _one_line(shell, kind: type, error: ReproError, _traceback, tb_offset: int | None = None,
              ) -> list[str]:
    """Show the error as its message alone; the kernel reports it as it would any other."""
    lines = [f"{kind.__name__}: {error}"]
    shell._showtraceback(kind, error, lines)
    return lines
