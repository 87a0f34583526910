"""Write the READMEs' tables from the committed results: python scripts/fill_readme.py [--check].

A block between `<!-- begin NAME -->` and `<!-- end NAME -->` of README.md and benchmarks/README.md
is replaced by what the function of that name makes of files in outputs/. Only tables are filled in;
what a sentence claims is written by hand and checked by tests/test_readme.py. Where the outputs
aren't the repository's own, nothing is written.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis import findings
from analysis.tables import MISSING, NO_BREAK, markdown, signed
from benchmarks import page
from lib.config import MODELS, model_name
from lib.paths import ROOT, outputs_root
from lib.runs import RunFolder, find_runs

NOTHING = "*(no results yet)*\n"


def answer() -> str:
    """How many pairs of models log-likelihood and BLEU order alike."""
    places = findings.places(demonstrations=False)
    return markdown(findings.answer(places)) if places else NOTHING


def multi30k() -> str:
    """The first seed of every model on Multi30k, raw beside distilled."""
    runs = {(run.model, run.train_data): run for run in find_runs("multi30k_de_en", "mini")
            if run.seed == 1}
    rows = [_row({data: runs[model, data] for data in ("raw", "distilled")
                  if (model, data) in runs}) for model in MODELS]
    return markdown(pd.DataFrame(filter(None, rows)).fillna(MISSING)) if runs else NOTHING


def _row(of: dict[str, RunFolder]) -> dict:
    """One model: training data -> its run."""
    row: dict[str, str] = {}
    for data, run in of.items():
        metrics = run.read_metrics()
        bleu = [(name, score.score) for name, score in metrics.bleu.items()
                if name in ("k1", "k4", metrics.headline)]
        ll = {name: f"{signed(found.mean, 3)} ± {found.standard_error:.3f}".replace(" ", NO_BREAK)
              for name, found in metrics.log_likelihood.items()}
        row |= {"model": model_name(run.model),
                "parameters": f"{metrics.parameters / 1e6:.1f}M",
                f"BLEU, {data}": ", ".join(f"{name} {score:.1f}" for name, score in bleu),
                f"LL, {data}": ll["strict"]}
        if data == "raw":
            row["released estimate, raw"] = ll["released"]
    return row


def verdicts() -> str:
    """The paper's findings, corpus by corpus."""
    places = findings.places(demonstrations=False)
    return markdown(findings.overview(findings.verdicts(*places))) if places else NOTHING


PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"answer": answer, "multi30k": multi30k, "verdicts": verdicts},
    ROOT / "benchmarks" / "README.md": page.BLOCKS}


def fill(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """A page's text with every block made anew."""
    for name, block in blocks.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        made = f"{begin}\n{block().strip()}\n{end}"
        text, count = pattern.subn(lambda _, made=made: made, text)
        if count != 1:
            raise SystemExit(f"a page must hold one block {begin} ... {end}, found {count}")
    return text


def main() -> int:
    """Fill, or with --check only compare."""
    if outputs_root() != ROOT / "outputs":
        return 0
    changed = 0
    for path, blocks in PAGES.items():
        before = path.read_text(encoding="utf-8")
        after = fill(before, blocks)
        changed |= before != after
        if "--check" not in sys.argv:
            path.write_text(after, encoding="utf-8")
    return int(changed and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
