"""Executed notebooks: what they are cleaned of before they are kept, and why one has failed.

A notebook is what its file holds, or nbformat's node of it, whose import takes longer than a guard
may take.
"""

import platform
import re
import sys
import tempfile

from lib.host import home
from lib.paths import ROOT

__all__ = ["clean", "error_line", "scrub"]

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
# What JupyterLab would write as well, so that opening a notebook doesn't change it.
LANGUAGE = {"codemirror_mode": {"name": "ipython", "version": 3}, "file_extension": ".py",
            "mimetype": "text/x-python", "name": "python", "nbconvert_exporter": "python",
            "pygments_lexer": "ipython3", "version": platform.python_version()}
KEPT_CELL_METADATA = {"tags", "collapsed", "jupyter", "editable"}

# What the machine writes into a text: the folders, and the file names of a kernel's cells.
# A path starts after a colour of a traceback, or after what no path goes on from.
START = r"(\x1b\[[\d;]*m|(?<![\w.~-]))"
CELL_FILE = re.compile(re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py")


def scrub(value):
    """`value` (text, or lists and dictionaries of it) without this machine's paths."""
    if isinstance(value, str):
        places = {str(ROOT): ".", sys.prefix: ".venv", tempfile.gettempdir(): "TMP",
                  str(home() or ""): "~"}
        value = CELL_FILE.sub("<cell>", value)
        for place, name in sorted(places.items(), key=lambda item: -len(item[0])):
            if len(place) > 1:  # not the root of all
                value = re.sub(START + re.escape(place) + r"(?![\w-])", rf"\g<1>{name}", value)
        return value
    if isinstance(value, list):
        return [scrub(item) for item in value]
    if isinstance(value, dict):
        return type(value)({key: scrub(item) for key, item in value.items()})
    return value


def clean(notebook: dict) -> None:
    """Strip, in place, metadata that changes from run to run, and paths out of the outputs."""
    notebook["metadata"] = {"kernelspec": KERNEL, "language_info": LANGUAGE}
    for cell in notebook["cells"]:
        cell["metadata"] = {key: value for key, value in cell["metadata"].items()
                            if key in KEPT_CELL_METADATA}
        for output in cell.get("outputs", []):
            for part in ("text", "traceback", "evalue"):
                if part in output:
                    output[part] = scrub(output[part])
            for kind, content in output.get("data", {}).items():
                if not kind.startswith("image/") or kind == "image/svg+xml":
                    output["data"][kind] = scrub(content)
            output.pop("transient", None)


def error_line(notebook: dict) -> str:
    """The first error that a cell ended with, "Kind: first line"; "" where there is none."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return f"{output['ename']}: {(output['evalue'].splitlines() or [''])[0]}"
    return ""
