"""outputs/README.md, findings.md and report.html: every result, in the order of the questions.

The first two are read beside their files, the last is one page that holds them all.
"""

import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from analysis import findings, html_report
from analysis.published import FINDINGS
from analysis.systems import place_of
from analysis.tables import markdown, signed
from analysis.training_table import ended
from analysis.verdicts import Verdict
from lib.config import MODELS, datasets, model_name
from lib.likelihood.accounting import ACCOUNTINGS
from lib.paths import outputs_root
from lib.runs import RunFolder, find_runs

__all__ = ["Item", "describe", "items", "main"]

# Question -> the notebook that answers it, and the beginnings of its files' names with what they
# show; in the order of the page, figures and tables as they are to be read.
QUESTIONS = {
    "Does the better density give the better translations?": ("05_correlation", {
        "answer": "Log-likelihood against BLEU of every model, strictly counted and by the "
                  "released code's estimate, and how many pairs of models both order alike",
        "concordance": "How many pairs of models log-likelihood and BLEU order alike",
        "table1": "BLEU and log-likelihood of every model (the paper's Table 1)",
        "training": "What each training cost, the start's share included, and what ended it",
        "recipe": "What each family reaches with other training settings, the same for all, on dev "
                  "(python -m workflow.recipe)",
        "within_training": "Along each training: dev BLEU against dev log-likelihood",
        "checkpoint_pairs": "Within one training: how many pairs of checkpoints dev log-likelihood "
                            "and dev BLEU order alike, up to the best likelihood and from it on",
        "two_checkpoints": "Within one training: the checkpoint with the best dev log-likelihood "
                           "against that with the best dev BLEU",
        "concordance_at_best_ll": "How many pairs of models both order alike where each is at its "
                                  "checkpoint with the best dev log-likelihood",
        "ll_against_bleu": "Log-likelihood against BLEU of every model under another accounting",
        "ll_against_mbr": "Log-likelihood against BLEU of minimum Bayes risk, which draws from the "
                          "model instead of searching it",
        "decoders": "Correlation of log-likelihood with BLEU of each run's own decoding, and with "
                    "that of minimum Bayes risk",
        "correlations": "Correlation of log-likelihood and BLEU across models, within and across "
                        "families",
        "significance": "Every pair of models: differences of BLEU and of log-likelihood, and "
                        "whether they agree",
        "curves": "Dev log-likelihood and dev BLEU along the training of every model on raw text",
        "table2": "Correlation of dev log-likelihood and dev BLEU across the checkpoints of each "
                  "run (the paper's Table 2)",
        "likelihood_by_length": "Log-likelihood of a sentence against its length"}),
    "Is it the decoder's factorisation, or the objective?": ("10_objective_or_factorisation", {
        "objective": "The effect of the objective, of the factorisation and of z, each changed "
                     "alone, on log-likelihood and BLEU",
        "two_by_two": "Decoder against objective: log-likelihood and BLEU of every model"}),
    "Is the better translator only too sure of itself?": ("12_calibration", {
        "calibration_pairs": "How many pairs of models log-likelihood and BLEU order alike, as "
                             "trained and at one temperature each",
        "calibration": "Log-likelihood against BLEU of both checkpoints of each training, as "
                       "trained and at one temperature each"}),
    "Does the other side of the divergence predict BLEU?": ("11_two_sided", {
        "two_sided_trainings": "How well each measure of a model ranks the models as BLEU does, of "
                               "every training of all models",
        "two_sided_ranks": "How well each measure of a model ranks the models as BLEU does",
        "two_sided": "Both divergences between each model and the truth, and what they predict",
        "sample_scores": "Each model's samples under every model: nats per token",
        "samples": "Each model's samples as text: BLEU, self-BLEU, repetition, length, types"}),
    "Are the numbers called log-likelihood log-likelihoods?": ("06_likelihood_audit", {
        "likelihood_audit": "Log-likelihood exact or between bounds, beside the truth's and the "
                            "released code's estimate",
        "bound_against_samples": "The importance-weighted bound against the number of samples, and "
                                 "what annealing reaches"}),
    "What does refinement do?": ("07_refinement", {
        "refinement_steps": "What each refinement step gains, of every latent model (the paper's "
                            "Table 3)",
        "refinement": "BLEU and the ELBO of the output against refinement steps",
        "table3": "BLEU, proxy bound and ELBO after every refinement step",
        "procedures": "BLEU of other ways to decode: length candidates, prior samples, minimum "
                      "Bayes risk",
        "ablations": "What the released code does besides, each alone: BLEU without refinement and "
                     "with it, and log-likelihood (python -m workflow.ablations)"}),
    "How fast does each family translate?": ("08_speed", {
        "latency": "Latency of single sentences against their length",
        "table4": "Sizes, sentences a second and speed over beam search (the paper's Table 4)",
        "model_sizes": "Parameters of every model at every scale, beside the published ones"}),
    "What does a teacher's text leave of the training set?": ("09_distillation", {
        "distillation": "Entropy of the translations of each source word, in the raw and in the "
                        "distilled training set"}),
    "Where do prior and posterior put the latent variable?": ("04_latent_space", {
        "latent_space": "Samples of z for one test sentence: prior, approximate posterior, delta "
                        "posterior (the paper's Figure 1)"}),
    "What do the models read?": ("01_data", {
        "corpus": "Sentence lengths of the training set, and the differences that the length "
                  "predictor meets"}),
}
KINDS = {kind: (question, notebook, caption) for question, (notebook, of) in QUESTIONS.items()
         for kind, caption in of.items()}
TITLE = "When does a better density estimator generate better output?"
LEAD = ("Every result of this repository, made by `python -m analysis.gallery` from the committed "
        "files; the points of a figure and the numbers of a table lie as .csv next to them.")


@dataclass(frozen=True)
class Item:
    """A figure or a table: its file, of which of `KINDS`, and what it is of (corpus, scale ...)."""

    path: Path
    kind: str
    where: str

    @property
    def caption(self) -> str:
        """What it shows, in words."""
        caption = KINDS[self.kind][2]
        return f"{caption}: {self.where}" if self.where else caption

    @property
    def link(self) -> str:
        """Its place below the outputs."""
        return f"{self.path.parent.name}/{self.path.name}"


def describe(path: Path) -> Item | None:
    """A figure's or table's item, by its file's name; None for another's file."""
    kind = max((kind for kind in KINDS if f"{path.stem}_".startswith(f"{kind}_")), key=len,
               default="")
    if not kind:
        return None
    rest = path.stem.removeprefix(kind).removeprefix("_")
    dataset = max((name for name in datasets() if rest.startswith(name)), key=len, default="")
    words = re.findall("|".join([*MODELS, *ACCOUNTINGS, "[^_]+"]), rest.removeprefix(dataset))
    words = [f"{word} (a demonstration)" if word == findings.DEMONSTRATION else model_name(word)
             for word in words]
    return Item(path, kind, ", ".join(filter(None, [dataset, *words])))


def items(root: Path) -> dict[str, list[Item]]:
    """Question -> its figures and tables, each kind of all corpora together."""
    files = [*(root / "figures").glob("*_*.png"), *(root / "tables").glob("*.md")]
    files += [path for path in (root / "tables").glob("*.csv")
              if not path.with_suffix(".md").exists()]
    order = list(KINDS)
    described = sorted(filter(None, map(describe, files)),
                       key=lambda item: (order.index(item.kind), item.path.name))
    return {question: list(of) for question, of in groupby(
        described, key=lambda item: KINDS[item.kind][0])}


def main() -> Path:
    """Write outputs/README.md, findings.md and report.html from what lies in outputs/; the same
    files give the same bytes. Returns the path of the first.
    """
    root = outputs_root()
    root.mkdir(parents=True, exist_ok=True)
    outcomes = findings.main()
    page = root / "README.md"
    page.write_text(_page(root, outcomes, whole=False), encoding="utf-8")
    (root / "report.html").write_text(html_report.page(_page(root, outcomes, whole=True), root),
                                      encoding="utf-8")
    return page


def _page(root: Path, outcomes: list[Verdict], *, whole: bool) -> str:
    """The page in Markdown: the answer with its picture, the findings, then question by question,
    then the runs. whole: with the tables themselves, for one page that holds all but
    demonstrations.
    """
    questions, places = items(root), findings.places_of(outcomes)
    parts = [f"# {TITLE}", LEAD if whole else f"{LEAD} [report.html](report.html) holds it on one "
             "page, [findings.md](findings.md) the numbers behind each verdict, "
             "[docs/answer.md](../docs/answer.md) what they mean."]
    if not whole and questions:
        parts.append("\n".join(f"- [{question}](#{_anchor(question)})" for question in questions))
    for question, of in questions.items():
        notebook = KINDS[of[0].kind][1]
        copies = sorted((root / "notebooks").glob(f"*/{notebook}.ipynb"))
        executed = ", ".join(f"[{copy.parent.name}]({copy.relative_to(root).as_posix()})"
                             for copy in copies)
        parts += [f"## {question}", f"From [{notebook}](../notebooks/{notebook}.ipynb)" +
                  (f"; executed on {executed}." if executed else ".")]
        first = question == next(iter(QUESTIONS))
        if first and (root / "figures" / "answer.png").exists():
            parts.append("![Log-likelihood, strictly counted, against BLEU of every model on every "
                         "corpus and scale that is evidence](figures/answer.png)")
        if first and places:
            parts += ["Pairs of models that log-likelihood and BLEU order alike / the other way "
                      "round / leave undecided; log-likelihood as the string's probability "
                      "(strict), as the paper describes it (given the length, a mean over padded "
                      "tokens), and by its released code:", markdown(findings.answer(places))]
        for kind in dict.fromkeys(item.kind for item in of):
            parts += (_whole if whole else _linked)([item for item in of if item.kind == kind])
        if first and places:
            parts += ["## The paper's findings, tested here", markdown(findings.overview(outcomes))]
            for finding in FINDINGS if whole else ():
                parts += [f"### {finding.number}. {finding.claim}",
                          markdown(findings.evidence_table(finding.number, outcomes))]
    if runs := sorted(find_runs(), key=lambda run: (
            run.dataset, run.scale, place_of(run.model), run.model, run.train_data != "raw",
            run.seed)):
        parts += ["## Runs", "Every run's folder, by its BLEU, which is of the decoding named (k: "
                  "refinement steps, mT: a subword at a time); seed by seed, in order. LL: strict, "
                  "nats per token. Ended by: early stopping (converged), the limit of steps, or "
                  "nothing yet (stopped)."]
        for (dataset, scale), here in groupby(runs, key=lambda run: (run.dataset, run.scale)):
            systems = groupby(here, key=lambda run: (run.model, run.train_data))
            parts += [f"### {dataset}, {scale}", "\n".join([
                "| model | trained on | seeds | decoding | BLEU | LL | ended by |",
                "|---|---|---|---|---|---|---|",
                *(_system(list(seeds), root) for _, seeds in systems)])]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _anchor(heading: str) -> str:
    """The heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _evidence(of: list[Item]) -> list[Item]:
    """The items of one kind without demonstrations, unless there is nothing else."""
    return [item for item in of if f", {findings.DEMONSTRATION}" not in item.where] or of


def _linked(of: list[Item]) -> list[str]:
    """One kind's pictures, and one line that links all of its files."""
    pictures = [f"![{item.caption}]({item.link})" for item in _evidence(of)
                if item.path.suffix == ".png"]
    links = " · ".join(f"[{item.where or item.path.stem}: {item.path.parent.name[:-1]}]"
                       f"({item.link})" for item in of)
    return [*pictures, f"- {KINDS[of[0].kind][2]}: {links}."]


def _whole(of: list[Item]) -> list[str]:
    """One kind's pictures and tables with their captions."""
    parts = []
    for item in _evidence(of):
        parts.append(f"### {item.caption}")
        if item.path.suffix == ".png":
            parts.append(f"![{item.caption}]({item.link})")
        else:
            parts += [item.path.read_text(encoding="utf-8") if item.path.suffix == ".md" else "",
                      f"[{item.path.name}]({item.link})"]
    return parts


def _system(seeds: list[RunFolder], root: Path) -> str:
    """The row of one model on one text."""
    metrics, first = [run.read_metrics() for run in seeds], seeds[0]
    cells = [[str(run.seed) for run in seeds], [of.headline for of in metrics],
             [f"[{of.own.score:.1f}]({run.path.relative_to(root).as_posix()}/)"
              for run, of in zip(seeds, metrics, strict=True)],
             [signed(of.log_likelihood["strict"].mean, 3) for of in metrics],
             [ended(run) for run in seeds]]
    row = [model_name(first.model), first.train_data, *(
        " · ".join(cell if len(set(cell)) > 1 else cell[:1]) for cell in cells)]
    return f"| {' | '.join(row)} |"


if __name__ == "__main__":
    main()
