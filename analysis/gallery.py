"""outputs/README.md and outputs/report.html: every figure and table with a sentence, linked.

The first is read beside its files, the second is one page that holds them all.
"""

import re
from pathlib import Path

from analysis import findings, html_report, published
from lib.config import datasets
from lib.paths import NOTEBOOKS, ROOT, outputs_root
from lib.runs import RunFolder, find_runs

__all__ = ["describe", "main", "write_gallery"]

# The beginning of a file's name -> (what it shows, what makes it: a notebook or a module).
KINDS = {
    "corpus": ("Sentence lengths of the training set, and the differences that the length "
               "predictor meets", "01_data"),
    "likelihood_by_length": ("Strict log-likelihood of the test sentences by their length, beside "
                             "the truth's where it is known", "03_eval"),
    "likelihood_audit": ("Log-likelihood exact or estimated, with upper bounds, beside the truth's "
                         "and the released code's estimate", "06_likelihood_audit"),
    "bound_against_samples": ("The importance-weighted bound against the number of samples, and "
                              "what annealing reaches", "06_likelihood_audit"),
    "divergence_against_steps": ("KL(p* || model) on the dev set against training steps, where p* "
                                 "is known", "06_likelihood_audit"),
    "latent_space": ("Samples of z for one test sentence: prior, approximate posterior, delta "
                     "posterior (the paper's Figure 1)", "04_latent_space"),
    "answer": ("Log-likelihood against BLEU of every model, raw and distilled, and how many pairs "
               "of models the two order alike, strictly counted and by the released estimate",
               "05_correlation"),
    "ll_against_bleu": ("Log-likelihood against BLEU of every model, with the correlations",
                        "05_correlation"),
    "significance": ("Every pair of models: differences of BLEU (sacreBLEU's paired bootstrap) and "
                     "of log-likelihood, and whether they agree", "05_correlation"),
    "concordance": ("How many pairs of models log-likelihood and BLEU order alike, within and "
                    "across families", "05_correlation"),
    "ll_against_mbr": ("Log-likelihood against BLEU of each run's own decoding and of minimum "
                       "Bayes risk, which draws instead of searching", "05_correlation"),
    "decoders": ("Correlation of log-likelihood with BLEU of each run's own decoding, and with "
                 "that of minimum Bayes risk", "05_correlation"),
    "table1": ("BLEU and log-likelihood of every model, beside the paper's (its Table 1)",
               "05_correlation"),
    "table2": ("Correlation of dev log-likelihood and dev BLEU across the checkpoints of each run "
               "(the paper's Table 2)", "05_correlation"),
    "table3": ("BLEU, proxy bound and ELBO after every refinement step (the paper's Table 3)",
               "07_refinement"),
    "refinement": ("BLEU and the ELBO of the output against refinement steps", "07_refinement"),
    "procedures": ("BLEU of other ways to decode: length candidates, prior samples, minimum Bayes "
                   "risk", "07_refinement"),
    "correlations": ("Correlation of log-likelihood and BLEU across models, within and across "
                     "families", "05_correlation"),
    "distillation": ("Entropy of the translations of each source word, in the raw and in the "
                     "distilled training set", "09_distillation"),
    "table4": ("Sizes, sentences a second and speed over beam search (the paper's Table 4)",
               "08_speed"),
    "latency": ("Latency of single sentences against their target length", "08_speed"),
    "model_sizes": ("Parameters of every model at every scale, beside the published ones",
                    "analysis/sizes.py"),
}

TITLE = "When does a better density estimator generate better output?"
LEAD = ("Every result of this repository on one page, made by `python -m analysis.gallery` from "
        "the committed files beside it; links lead to the runs and the notebooks that made them, "
        "[README.md](README.md) to the same as single files.")
RUNS_SAY = "BLEU is the headline setting's, LL strict, in nats per token."
OF_ONE_RUN = "likelihood_by_length"  # one a run: too many to show them all


def describe(stem: str) -> tuple[str, str] | None:
    """(sentence with the file's own parameters, maker) of a figure or table, None for another's."""
    kind = next((k for k in KINDS if stem == k or stem.startswith(f"{k}_")), None)
    if kind is None:
        return None
    sentence, maker = KINDS[kind]
    rest = stem.removeprefix(kind).removeprefix("_")
    dataset = max((d for d in datasets() if rest.startswith(d)), key=len, default="")
    parts = [dataset, *_words(rest.removeprefix(dataset))]
    told = ", ".join(part for part in parts if part)
    return f"{sentence}: {told}" if told else sentence, maker


def _words(rest: str) -> list[str]:
    """The parameters in a file's name; a model's name has an underscore of its own."""
    models = "|".join(published.MODELS)
    return re.findall(rf"{models}|per_sentence|bits_per_char|[^_]+", rest)


def write_gallery() -> Path:
    """Write outputs/README.md and outputs/report.html from what lies in outputs/; the same files
    give the same bytes. Returns the path of the first.
    """
    root = outputs_root()
    root.mkdir(parents=True, exist_ok=True)
    (root / "report.html").write_text(_report(root), encoding="utf-8")
    page = root / "README.md"
    page.write_text(_readme(root), encoding="utf-8")
    return page


def _files(root: Path) -> tuple[list[Path], list[Path], dict[str, Path]]:
    """Figures of several runs, figures of one run, and tables (the readable file of each)."""
    drawn = sorted((root / "figures").glob("*.png"))
    texts = {path.stem: path for path in (root / "tables").glob("*.csv")}
    texts |= {path.stem: path for path in (root / "tables").glob("*.md")}
    return ([path for path in drawn if not path.stem.startswith(OF_ONE_RUN)],
            [path for path in drawn if path.stem.startswith(OF_ONE_RUN)],
            dict(sorted(texts.items())))


def _readme(root: Path) -> str:
    figures, single, texts = _files(root)
    lines = ["# Results", "", "Made by `python -m analysis.gallery` from the files beside it. "
             "Points of a figure and numbers of a table lie as .csv next to them. "
             "[report.html](report.html) holds all of this on one page.", ""]
    if figures:
        lines += ["## Figures", ""]
    for path in figures:
        lines += [f"### {path.stem}", "", f"{_line(path)}", "",
                  f"![{path.stem}](figures/{path.name})", ""]
    if single:
        lines += ["## Figures of single runs", "", "| figure | shows |", "|---|---|"]
        lines += [f"| [{path.stem}](figures/{path.name}) | {_line(path)} |" for path in single]
        lines += [""]
    if texts:
        lines += ["## Tables", "", "| table | shows |", "|---|---|"]
        lines += [f"| [{stem}](tables/{path.name}) | {_line(path)} |"
                  for stem, path in texts.items()] + [""]
    runs = _runs_table()
    lines += ["## Runs", "", RUNS_SAY, "", *runs, ""] if runs else []
    return "\n".join(lines)


def _report(root: Path) -> str:
    """The page: findings, figures, tables, runs, and every figure inside it while they fit."""
    figures, single, texts = _files(root)
    parts = {title: html_report.Section(title) for title in (
        "The paper's findings", "Figures", "Tables", "Runs", "Figures of single runs")}
    for number, body in _findings(root):
        parts["The paper's findings"].add(f"Finding {number}", body)
    for stem, path in texts.items():
        body = html_report.table_html(path.read_text(encoding="utf-8")) if path.suffix == ".md" \
            else ""
        link = html_report.inline(f"{_line(path)} [{path.name}](tables/{path.name})")
        parts["Tables"].add(stem, f"<p>{link}</p>\n{body}")
    runs = _runs_table()
    if runs:
        parts["Runs"].add("", html_report.table_html("\n".join([RUNS_SAY, *runs])))
    room = html_report.LARGEST * 9 // 10 - sum(section.size for section in parts.values())
    for path in (*figures, *single):
        body = html_report.figure_html(path, _line(path))
        if len(body) > room:
            link = html_report.inline(f"[figures/{path.name}](figures/{path.name}). {_line(path)}")
            body = f"<p>{link}</p>"
        room -= len(body)
        if path in single:
            parts["Figures of single runs"].add("", html_report.folded(path.stem, body))
        else:
            parts["Figures"].add(path.stem, body)
    return html_report.page(TITLE, html_report.inline(LEAD), list(parts.values()))


def _findings(root: Path) -> list[tuple[int, str]]:
    """(number, HTML) of each finding, over every data set and scale that was compared."""
    places = sorted(path.stem.removeprefix("significance_").rpartition("_")[::2]
                    for path in (root / "tables").glob("significance_*.csv"))
    found = []
    for finding in published.FINDINGS if places else ():
        told = "".join(f"<li>{html_report.inline(sentence)}</li>\n"
                       for sentence in findings.sentences(finding, places))
        found.append((finding.number,
                      f"<p><strong>{html_report.inline(finding.claim)}</strong></p>\n"
                      f"<ul>\n{told}</ul>"))
    return found


def _line(path: Path) -> str:
    """What a figure or table shows, the notebook or module that made it, the runs behind it."""
    found = describe(path.stem)
    if found is None:
        return "Not made by this repository's notebooks."
    sentence, maker = found
    where = f"notebooks/{maker}.ipynb" if (NOTEBOOKS / f"{maker}.ipynb").exists() else maker
    made = f"[{where}](../{where})" if (ROOT / where).exists() else where
    runs = _behind(path.stem)
    return f"{sentence}. Made by {made}" + (f" from [{runs}]({runs}/)." if runs else ".")


def _behind(stem: str) -> str:
    """The folder of the run, or of all runs of the data set and scale, that a file's name tells."""
    dataset = max((d for d in datasets() if f"_{d}_" in f"{stem}_"), key=len, default="")
    if not dataset:
        return ""
    folder = Path("runs") / dataset
    for word in _words(stem.partition(dataset)[2]):
        if not (outputs_root() / folder / word).is_dir():
            break
        folder /= word
    return folder.as_posix() if (outputs_root() / folder).is_dir() else ""


def _runs_table() -> list[str]:
    """Lines of a table: a row a run that was evaluated."""
    runs = find_runs()
    head = ["| run | BLEU | LL | executed notebooks |", "|---|---:|---:|---|"]
    return [*head, *map(_run, runs)] if runs else []


def _run(run: RunFolder) -> str:
    folder, metrics = run.path.relative_to(outputs_root()), run.read_metrics()
    books = ", ".join(f"[{p.stem}]({folder.as_posix()}/{p.name})"
                      for p in sorted(run.path.glob("0*.ipynb")))
    name = "/".join(folder.parts[1:])
    number = f"{metrics.log_likelihood['strict'].mean:.3f}".replace("-", "\N{MINUS SIGN}")
    return (f"| [{name}]({folder.as_posix()}/) | {metrics.own.score:.1f} | {number} "
            f"| {books or '–'} |")


def main() -> Path:
    """Write both pages; returns where the first lies."""
    return write_gallery()


if __name__ == "__main__":
    main()
