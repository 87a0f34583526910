"""The former name of `workflow.grid`, for who types `python -m lib.grid`: the same modules."""

from workflow.grid import __path__, main

__all__ = ["__path__", "main"]
