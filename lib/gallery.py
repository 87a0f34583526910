"""outputs/README.md: every figure and table there is, with a sentence, linked to its notebook."""

import json
import re
from pathlib import Path

from . import published
from .config import datasets
from .errors import DataError
from .paths import NOTEBOOKS, ROOT, outputs_root

__all__ = ["describe", "main", "write_gallery"]

# The beginning of a file's name -> (what it shows, what makes it: a notebook or a module).
KINDS = {
    "corpus": ("Sentence lengths of the training set, and the differences that the length "
               "predictor meets", "01_data"),
    "likelihood_by_length": ("Strict log-likelihood of the test sentences by their length, beside "
                             "the truth's where it is known", "03_eval"),
    "latent_space": ("Samples of z for one test sentence: prior, approximate posterior, delta "
                     "posterior (the paper's Figure 1)", "04_latent_space"),
    "ll_against_bleu": ("Log-likelihood against BLEU of every run, with the correlations",
                        "05_correlation"),
    "table1": ("BLEU and log-likelihood of every model, beside the paper's (its Table 1)",
               "05_correlation"),
    "table2": ("Correlation of dev log-likelihood and dev BLEU across the checkpoints of each run "
               "(the paper's Table 2)", "05_correlation"),
    "correlations": ("Correlation of log-likelihood and BLEU across models, within and across "
                     "families", "05_correlation"),
    "model_sizes": ("Parameters of every model at every scale, beside the published ones",
                    "lib/sizes.py"),
}

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
    """Write outputs/README.md from what lies in outputs/; the same files give the same bytes."""
    root = outputs_root()
    drawn = sorted((root / "figures").glob("*.png"))
    figures = [path for path in drawn if not path.stem.startswith(OF_ONE_RUN)]
    single = [path for path in drawn if path.stem.startswith(OF_ONE_RUN)]
    texts = {path.stem: path for path in (root / "tables").glob("*.csv")}
    texts |= {path.stem: path for path in (root / "tables").glob("*.md")}
    lines = ["# Results", "", "Made by `python -m lib.gallery` from the files beside it. Points of "
             "a figure and numbers of a table lie as .csv next to them.", ""]
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
                  for stem, path in sorted(texts.items())] + [""]
    runs = sorted((root / "runs").glob("*/*/*/*/s*/metrics.json"))
    if runs:
        lines += ["## Runs", "", "BLEU is the headline setting's, LL strict, in nats per token.",
                  "", "| run | BLEU | LL | executed notebooks |", "|---|---:|---:|---|"]
        lines += [_run(path, root) for path in runs] + [""]
    path = root / "README.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _line(path: Path) -> str:
    found = describe(path.stem)
    if found is None:
        return "Not made by this repository's notebooks."
    sentence, maker = found
    where = f"notebooks/{maker}.ipynb" if (NOTEBOOKS / f"{maker}.ipynb").exists() else maker
    return f"{sentence}. Made by [{where}](../{where})." if (ROOT / where).exists() else \
        f"{sentence}. Made by {where}."


def _run(path: Path, root: Path) -> str:
    folder = path.parent.relative_to(root)
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        bleu = metrics["bleu"][metrics["headline"]]["score"]
        strict = metrics["log_likelihood"]["strict"]["mean"]
    except (json.JSONDecodeError, KeyError) as error:
        raise DataError(f"{path} is damaged ({error}): evaluate the run again with "
                        "notebooks/03_eval.ipynb") from error
    books = ", ".join(f"[{p.stem}]({folder.as_posix()}/{p.name})"
                      for p in sorted(path.parent.glob("0*.ipynb")))
    name = "/".join(folder.parts[1:])
    number = f"{strict:.3f}".replace("-", "\N{MINUS SIGN}")
    return f"| [{name}]({folder.as_posix()}/) | {bleu:.1f} | {number} | {books or '–'} |"


def main() -> Path:
    """Write the gallery; returns where."""
    return write_gallery()


if __name__ == "__main__":
    main()
