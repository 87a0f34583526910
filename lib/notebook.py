"""What every notebook starts with, and what an executed one is cleaned of before it is kept."""

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import nbformat
from IPython.core.pylabtools import select_figure_formats
from IPython.display import display
from matplotlib.figure import Figure

from . import runtime
from .errors import ReproError
from .paths import ROOT

__all__ = ["clean", "follow", "scrub", "setup", "shows_progress"]

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT_CELL_METADATA = {"tags", "collapsed", "jupyter", "editable"}

# What the machine writes into a text: the folders, and the file names of a kernel's cells.
CELL_FILE = re.compile(re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py")


# ---- inside a notebook ----

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


# ---- on an executed notebook ----

def scrub(value):
    """`value` (text, or lists and dictionaries of it) without this machine's paths."""
    if isinstance(value, str):
        places = {str(ROOT): ".", sys.prefix: ".venv", tempfile.gettempdir(): "TMP",
                  str(Path.home()): "~"}
        value = CELL_FILE.sub("<cell>", value)
        for place, name in sorted(places.items(), key=lambda item: -len(item[0])):
            value = re.sub(re.escape(place) + r"(?![\w-])", name, value)
        return value
    if isinstance(value, list):
        return [scrub(item) for item in value]
    if isinstance(value, dict):
        return type(value)({key: scrub(item) for key, item in value.items()})
    return value


def clean(notebook: nbformat.NotebookNode) -> None:
    """Strip, in place, metadata that changes from run to run, and paths out of the outputs."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: value for key, value in cell.metadata.items() if key in KEPT_CELL_METADATA}
        )
        for output in cell.get("outputs", []):
            for part in ("text", "traceback"):
                if part in output:
                    output[part] = scrub(output[part])
            for kind, content in output.get("data", {}).items():
                if not kind.startswith("image/") or kind == "image/svg+xml":
                    output.data[kind] = scrub(content)
            output.pop("transient", None)
