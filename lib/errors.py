"""The errors that a user can cause, each raised with one message that names the fix."""

import contextlib
import sys
from collections.abc import Iterator

__all__ = ["CheckpointError", "ConfigError", "DataError", "OutputError", "ReproError",
           "Stopped", "TrainingError", "check_least", "check_range", "one_line_errors"]


class ReproError(Exception):
    """Base of every error that the repository raises on purpose."""


class ConfigError(ReproError):
    """A name, a type or a range in params/ or in a notebook's parameters is wrong."""


class DataError(ReproError):
    """A corpus is missing, damaged, unaligned or empty."""


class CheckpointError(ReproError):
    """A checkpoint is missing, truncated, foreign, or doesn't fit the model or vocabulary."""


class OutputError(ReproError):
    """A result can't be written where it belongs."""


class TrainingError(ReproError):
    """Training can't go on: a loss term is not finite, or another process trains the same run."""


class Stopped(ReproError):
    """The user interrupted what can go on later."""


@contextlib.contextmanager
def one_line_errors(shown: bool = True) -> Iterator[None]:
    """A command that can go on later: an error ends it with status 1 and its message, Ctrl-C with
    130, both in a line on standard error; `shown`: whether this process writes it.
    """
    try:
        yield
    except ReproError as error:
        raise SystemExit(f"error: {error}" if shown else 1) from None
    except KeyboardInterrupt:
        sys.stderr.write("stopped: the same command goes on\n" * shown)
        raise SystemExit(130) from None


def check_range(name: str, value, least: int | float | None, most: int | None = None) -> None:
    """Errors: ConfigError for a value that isn't from `least` to `most`, a NaN among them."""
    if not (least is None or value >= least) or not (most is None or value <= most):
        span = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{name} = {value} must be {span}")


def check_least(settings: object, **least: int) -> None:
    """Errors: ConfigError for the first of these fields that lies below the number given for it."""
    for name, smallest in least.items():
        check_range(name, getattr(settings, name), smallest)
