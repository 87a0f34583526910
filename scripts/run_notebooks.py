"""Run the notebooks and keep what a reader needs, nothing of the machine.

    python scripts/run_notebooks.py             every notebook of notebooks/, in place
    python scripts/run_notebooks.py 03 05       those whose names start so
    python scripts/run_notebooks.py 05 06 --dataset multi30k_de_en --scale mini

In place, a notebook is run at its defaults; with a data set, at full size, and the executed copy is
kept in outputs/notebooks/<dataset>_<scale>/. Either is written only if every cell succeeded.
Outputs, tags and cell identities stay; times and paths go.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from lib.paths import NOTEBOOKS, ROOT, outputs_root
from workflow.grid.executed import clean

STUDIES = ("04", "05", "06", "07", "08", "09", "10", "11", "12")  # what is run on a data set
FULL = {"04_latent_space": {"samples": 1000},
        "07_refinement": {"sentences": 0, "compared_sentences": 0},
        "08_speed": {"sentences": 24, "rounds": 5},
        "11_two_sided": {"sentences": 100, "samples": 4, "importance": 64}}
"""What a notebook takes at full size."""
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")  # to a file, in Markdown


def empty(notebook: nbformat.NotebookNode) -> None:
    """Remove, in place, outputs, counts, and the cells that papermill has put in."""
    notebook.cells = [
        cell for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", []) and cell.source.strip()
    ]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def relink(notebook: nbformat.NotebookNode, start: Path, folder: Path) -> None:
    """Have links of Markdown, relative to `start`, lead to the same files from `folder`."""
    def moved(text: str) -> str:
        return LINK.sub(lambda link: f"]({os.path.relpath(start / link[1], folder)}", text)

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = moved(cell.source)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = moved(output.data["text/markdown"])


def run(path: Path, timeout: int | None, target: Path, parameters: dict | None = None) -> None:
    """Execute the notebook at `path` and write it to `target`; on any error leave that alone."""
    notebook = load_notebook_node(str(path))
    empty(notebook)
    if parameters is not None:
        notebook = parameterize_notebook(notebook, parameters)
    NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    clean(notebook)
    if target.parent != path.parent:
        relink(notebook, path.parent, target.parent)
    nbformat.validate(notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        nbformat.write(notebook, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def jobs(names: list[str], dataset: str, scale: str, given: dict,
         ) -> list[tuple[Path, Path, dict | None]]:
    """(notebook, where it goes, its parameters) of those whose names start so; all for none."""
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    if not dataset:
        return [(path, path, None) for path in paths
                if not names or path.name.startswith(tuple(names))]
    folder = outputs_root() / "notebooks" / f"{dataset}_{scale}"
    return [(path, folder / path.name, {"dataset": dataset, "scale": scale}
             | FULL.get(path.stem, {}) | given)
            for path in paths if path.name.startswith(tuple(names or STUDIES))]


def main() -> int:
    """Run the notebooks that the command line names; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="beginnings of file names (default: all)")
    parser.add_argument("--dataset", default="", help="run them on this data set (default: as they "
                        "are, in place)")
    parser.add_argument("--scale", default="mini", help="of the data set")
    parser.add_argument("--parameters", type=yaml.safe_load, default={},
                        help="further parameters of what is run on a data set: '{models: [ga_b]}'")
    parser.add_argument("--timeout", type=int, default=None, help="seconds a cell may take "
                        "(default: 600 in place, none on a data set)")
    arguments = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars aren't results

    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    unknown = [name for name in arguments.names if not any(p.name.startswith(name) for p in paths)]
    if unknown or not paths:
        print(f"no notebook starts with {' or '.join(unknown)}" if unknown else "no notebooks yet",
              f"(there are: {', '.join(path.stem for path in paths) or 'none'})", file=sys.stderr)
        return 1
    timeout = arguments.timeout or (None if arguments.dataset else 600)
    failed = []
    for path, target, parameters in jobs(arguments.names, arguments.dataset, arguments.scale,
                                         arguments.parameters):
        print(f"==> {path.relative_to(ROOT)} ", end="", flush=True)
        start = time.monotonic()
        try:
            run(path, timeout, target, parameters)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            failed.append(path.stem)
            print(f"failed, nothing written:\n{error}", file=sys.stderr)
        else:
            print(f"{time.monotonic() - start:.0f} s")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
