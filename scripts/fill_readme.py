"""Write the READMEs' tables from the committed results: python scripts/fill_readme.py [--check].

A block between `<!-- begin NAME -->` and `<!-- end NAME -->` of README.md and benchmarks/README.md
is replaced by what the function of that name makes of files in outputs/. Only tables are filled in;
what a sentence claims is written by hand and checked by tests/test_readme.py, whose --update-pages
writes its numbers. Where the outputs aren't the repository's own, nothing is written.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis import findings
from analysis.systems import average_seeds, collect
from analysis.tables import MISSING, NO_BREAK, markdown, signed
from analysis.training_variance import BORROWED, BOTH, PARTLY, SENTENCES
from analysis.verdicts import verdicts
from benchmarks import page
from lib.config import MODELS, model_name
from lib.paths import ROOT, outputs_root
from lib.runs import find_runs

NOTHING = "*(no results yet)*\n"
COLUMNS = {
    **{f"{data}, {scale}": ("multi30k_de_en", scale, data)
       for scale in ("long", "mini") for data in ("raw", "distilled")},
    "English to German: raw, mini": ("multi30k_en_de", "mini", "raw"),
    **{f"TED: {data}, mini": ("ted_de_en", "mini", data) for data in ("raw", "distilled")}}
"""Of the table of models, and what each is of."""
OVER = {BOTH: "", PARTLY: "¹", BORROWED: "¹", SENTENCES: "²"}
"""What a verdict's intervals are over, and its mark."""


def answer() -> str:
    """How many pairs of models log-likelihood and BLEU order alike."""
    if not (places := findings.places(demonstrations=False)):
        return NOTHING
    table = findings.answer(places)
    return markdown(table[table["LL"] == "strict"].drop(columns="LL"))


def models() -> str:
    """Every model: BLEU, LL, seeds."""
    columns = {name: collect(
        run for run in find_runs(dataset, scale) if run.train_data == data)
        for name, (dataset, scale, data) in COLUMNS.items()}
    rows = []
    for model in MODELS:
        row = {"model": model_name(model)}
        for column, runs in columns.items():
            if (own := runs[runs["model"] == model]).empty:
                continue
            [system] = average_seeds(own)[0].to_dict("records")
            bleu = own["bleu_paper"].fillna(own["bleu"]).mean()
            seeds = f" ({len(own)} seeds)" if len(own) > 1 else ""
            row[column] = (f"{bleu:.1f}, {signed(system['strict'], 3)} ± "
                           f"{system['strict_error']:.3f}{seeds}").replace(" ", NO_BREAK)
        rows += [row] if len(row) > 1 else []
    return markdown(pd.DataFrame(rows).fillna(MISSING)) if rows else NOTHING


def of_findings() -> str:
    """The paper's findings, corpus by corpus."""
    if not (places := findings.places(demonstrations=False)):
        return NOTHING
    outcomes = verdicts(*places)
    by_accounting = defaultdict(set)
    for of in outcomes:
        by_accounting[of.finding, of.place].add(of.verdict)
    table = markdown(findings.overview(
        [replace(of, verdict=of.verdict + "†" * (len(by_accounting[of.finding, of.place]) > 1))
         for of in outcomes if of.accounting in ("", "strict")]))
    for words, mark in OVER.items():
        table = table.replace(f" (over {words})", mark)
    return table


PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"answer": answer, "models": models, "verdicts": of_findings},
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
