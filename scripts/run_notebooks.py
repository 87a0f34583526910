"""Run every notebook in place at its defaults and keep what a reader needs, nothing of the machine.

    python scripts/run_notebooks.py             every notebook of notebooks/
    python scripts/run_notebooks.py 03 05       those whose names start so

A notebook is emptied, run from top to bottom in its own folder, and written back only if every
cell succeeded. Outputs, tags and cell identities stay; times, versions and paths go.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from lib.paths import NOTEBOOKS, ROOT
from workflow.grid.executed import clean


def empty(notebook: nbformat.NotebookNode) -> None:
    """Remove, in place, outputs, counts, and the cells that papermill has put in."""
    notebook.cells = [
        cell for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", []) and cell.source.strip()
    ]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def run(path: Path, timeout: int) -> None:
    """Execute the notebook at `path` and replace the file; on any error leave it as it was."""
    notebook = nbformat.read(path, as_version=4)
    empty(notebook)
    NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    clean(notebook)
    nbformat.validate(notebook)
    partial = path.with_name(path.name + ".partial")
    try:
        nbformat.write(notebook, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> int:
    """Run the notebooks that the command line names; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of file names (default: all)")
    parser.add_argument("--timeout", type=int, default=600, help="seconds a cell may take")
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars aren't results

    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    unknown = [name for name in arguments.names if not any(p.name.startswith(name) for p in paths)]
    if unknown or not paths:
        print(f"no notebook starts with {' or '.join(unknown)}" if unknown else "no notebooks yet",
              f"(there are: {', '.join(path.stem for path in paths) or 'none'})", file=sys.stderr)
        return 1
    failed = []
    for path in paths:
        if arguments.names and not path.name.startswith(tuple(arguments.names)):
            continue
        print(f"==> {path.relative_to(ROOT)} ", end="", flush=True)
        start = time.monotonic()
        try:
            run(path, arguments.timeout)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            failed.append(path.stem)
            print(f"failed, file left as it was:\n{error}", file=sys.stderr)
        else:
            print(f"{time.monotonic() - start:.0f} s")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
