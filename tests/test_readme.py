"""The README says only what committed files show."""

import re
import subprocess
import sys

from lib.config import MODELS, SCALES, datasets
from lib.paths import NOTEBOOKS, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_table_is_what_the_committed_results_give():
    done = subprocess.run([sys.executable, "scripts/fill_readme.py", "--check"], cwd=ROOT,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        "results changed: run `python scripts/fill_readme.py`\n" + done.stderr)


def test_every_link_and_named_file_exists():
    named = re.findall(r"\]\((?!http|#)([^)#]+)\)", README)
    assert named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_every_papermill_line_names_what_there_is():
    lines = re.findall(r"papermill notebooks/(\S+) (\S+)((?: -p \w+ \S+)*)", README)
    assert lines
    known = {"model": MODELS, "scale": SCALES, "dataset": datasets()}
    for notebook, output, rest in lines:
        assert (NOTEBOOKS / notebook).exists()
        assert output.endswith(".ipynb")
        for name, value in re.findall(r"-p (\w+) (\S+)", rest):
            assert name not in known or value in known[name], (name, value)
