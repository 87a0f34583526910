"""What every notebook starts with: threads, figures, checked parameters, errors of one line."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence

from IPython import get_ipython
from IPython.core.pylabtools import select_figure_formats
from IPython.display import display
from matplotlib.figure import Figure

from lib import runtime
from lib.config import MODELS, model_name, unknown
from lib.errors import ConfigError, ReproError, Stopped, check_range

__all__ = ["check", "check_models", "file_stem", "follow", "interruptible", "setup",
           "shows_progress"]


def setup() -> None:
    """Threads, sharp pictures, and errors of the user's own as one line; call it first.

    An error of `lib.errors` still fails the cell, and papermill with it; only its traceback goes.
    So does that of an interruption.
    """
    runtime.prepare()
    shell = get_ipython()  # None in a plain Python
    if shell is not None:
        shell.set_custom_exc((ReproError, KeyboardInterrupt), _one_line)
        select_figure_formats(shell, {"retina"})


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


@contextlib.contextmanager
def interruptible(where: Callable[[], str]) -> Iterator[None]:
    """What is interrupted in it ends with one line: `where()` it stopped, and how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"{where()}; run the notebook again to go on") from None


# ---- parameters ----

def check(name: str, value, kind: type | Sequence, least: int | None = None,
          most: int | None = None) -> None:
    """Refuse a parameter in one line: of another type, not one of several values, out of range.

    kind: a type, or the values that there are. Errors: ConfigError.
    """
    if not isinstance(kind, type):
        if value not in kind:
            raise ConfigError(unknown(name, value, kind))
        return
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        hint = " (papermill: -y, not -p)" if kind in (dict, list) else ""
        raise ConfigError(f"{name} = {value!r} must be of type {kind.__name__}{hint}")
    check_range(name, value, least, most)


def check_models(name: str, value, among: Sequence[str] = MODELS, *, empty: bool = False) -> None:
    """Refuse what isn't a list of models of `among`, which may be `empty`. Errors: ConfigError."""
    check(name, value, list)
    if not value and not empty:
        raise ConfigError(f"{name} = []: name at least one of {', '.join(among)}")
    for model in value:
        if model not in MODELS:
            raise ConfigError(f"{name}: {unknown('model', model, among)}")
        if model not in among:
            raise ConfigError(f"{name}: {model_name(model)} won't do here; choose among "
                              f"{', '.join(among)}")


def file_stem(dataset: str, scale: str, train_data: str = "raw", seed: int = 1,
              *reductions: str) -> str:
    """How the files that a notebook writes are called after what made them: "toy_smoke", and
    whatever differs from the usual: "toy_smoke_distilled_s2_n20".
    """
    parts = [dataset, scale, train_data if train_data != "raw" else "",
             f"s{seed}" if seed != 1 else "", *reductions]
    return "_".join(filter(None, parts))


# ---- parts ----

def _one_line(shell, kind: type, error: BaseException, _traceback, tb_offset: int | None = None,
              ) -> list[str]:
    """Show the error as its message alone; the kernel reports it as it would any other."""
    lines = [f"{kind.__name__}: {error}" if str(error) else
             f"{kind.__name__}: interrupted; run the notebook again"]
    shell._showtraceback(kind, error, lines)
    return lines
