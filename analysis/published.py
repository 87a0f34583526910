"""What Lee, Tran, Firat and Cho (2020) published, and what their own tables show when counted.

"On the Discrepancy between Density Estimation and Sequence Generation", arXiv 2002.07233. The
numbers of Tables 1 to 4 lie in params/published/, whose README says what each table is of.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.kinds import KINDS, pair_kind
from lib.config import family_of, load_dataset
from lib.paths import PARAMS

__all__ = ["CAVEAT", "FINDINGS", "Finding", "agreement", "column", "counted", "paper_setting",
           "parameters", "table", "value"]

CAVEAT = ("Which estimator and which average stand behind the published log-likelihoods isn't "
          "known: the paper says 1,000 importance samples and the true length, its released code "
          "computes something else.")
"""To be read with every published log-likelihood of a latent model."""


@dataclass(frozen=True)
class Finding:
    """One claim of the paper that this repository tests.

    number: its place in the README. claim: one sentence. place: where the paper makes it.
    """

    number: int
    claim: str
    place: str


FINDINGS = (
    Finding(1, "Within a family, log-likelihood and BLEU rank models alike.", "Tables 1 and 2"),
    Finding(2, "Across families they do not: flow priors give the best log-likelihood and the "
               "worst BLEU.", "Table 1"),
    Finding(3, "Distillation hurts log-likelihood and helps non-autoregressive BLEU.", "Table 1"),
    Finding(4, "Delta-posterior refinement helps Gaussian priors more than flow priors.",
            "Table 3"),
    Finding(5, "For fast generation a simple prior with distillation and refinement is best.",
            "Table 4"),
)
"""The paper's findings, numbered as in the README."""


@functools.cache
def table(number: int) -> pd.DataFrame:
    """Table 1 to 4 as published, a row a system; NaN where the paper prints nothing.

    Table 1: bleu and log_likelihood (nats per token). 2: pearson, over checkpoints. 3: bleu and
    elbo after refinement_steps. 4: bleu, sentences_per_second, parameters by decoding setting.
    """
    return pd.read_csv(PARAMS / "published" / f"table{number}.csv")


def value(number: int, name: str, **keys: str | int) -> float:
    """The published number in the column `name` of the one row whose columns equal `keys`; NaN
    where there is none.
    """
    chosen = table(number)
    for key, wanted in keys.items():
        chosen = chosen[chosen[key] == wanted]
    if len(chosen) > 1:
        raise ValueError(f"{len(chosen)} rows of Table {number} match {keys}")
    return float(chosen[name].iloc[0]) if len(chosen) else math.nan


def parameters() -> dict[str, float]:
    """Parameters by model at the WMT sizes, 32,000 subwords (Table 4); Fl-L is Ma et al.'s."""
    known = table(4).drop_duplicates("model").set_index("model")["parameters"]
    return {model.removesuffix("_ma"): float(number) for model, number in known.items()}


def column(dataset: str) -> str | None:
    """The paper's name of a data set, None where the paper has no counterpart (toy, Multi30k)."""
    return load_dataset(dataset).published


def paper_setting(family: str) -> str:
    """How the paper decodes: beam search of width 4, and one refinement step of latent models."""
    return "beam4" if family == "autoregressive" else "k1"


def agreement() -> pd.DataFrame:
    """The paper's own Table 1, pair by pair: does the model with the better log-likelihood have the
    better BLEU?

    A row a data set (the paper's name), training data and kind of pair (`kinds.KINDS`, and "all"):
    pairs, agree, and over the models of "all" Spearman's rho with n.
    """
    rows = []
    for corpus, data, systems in _systems():
        pairs = [(pair_kind(a.family, b.family), bool(
            np.sign(a.bleu - b.bleu) == np.sign(a.log_likelihood - b.log_likelihood)))
            for a, b in combinations(systems.itertuples(), 2)]
        alike = {kind: [same for of, same in pairs if of == kind] for kind in KINDS}
        alike["all"] = [same for _, same in pairs]
        rows += [{"corpus": corpus, "train_data": data, "kind": kind, "pairs": len(of),
                  "agree": sum(of), "n": len(systems),
                  "spearman": systems["bleu"].corr(systems["log_likelihood"], "spearman")
                  if kind == "all" else math.nan} for kind, of in alike.items() if of]
    return pd.DataFrame(rows)


def counted(finding: int) -> pd.DataFrame:
    """What the paper's own tables show of a finding, ready to be printed."""
    return {1: _agreement_by_corpus, 2: _flow_priors, 3: _distillation, 4: _refinement,
            5: _speed}[finding]()


# ---- parts ----

def _systems() -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(corpus, training data, rows of Table 1 that the authors trained themselves with a column
    `family`) of each half of a column of Table 1.
    """
    ours = table(1)[~table(1)["model"].str.endswith("_ma")]
    ours = ours.assign(family=ours["model"].map(family_of))
    for (dataset, data), systems in ours.groupby(["dataset", "train_data"], sort=False):
        yield column(dataset), data, systems


def _agreement_by_corpus() -> pd.DataFrame:
    """`agreement` as "agree of pairs" by corpus and training data, a column a kind."""
    table, keys = agreement(), ["corpus", "train_data"]
    table["shown"] = table["agree"].astype(str) + " of " + table["pairs"].astype(str)
    wide = table.pivot_table(index=keys, columns="kind", values="shown", aggfunc="first",
                             sort=False)
    rho = table.dropna(subset="spearman").set_index(keys)[["spearman", "n"]]
    return wide.join(rho).reset_index()


def _flow_priors() -> pd.DataFrame:
    """How far the best flow prior is from the best, and from the worst, of the other families."""
    rows = []
    for corpus, data, systems in _systems():
        best = systems.groupby("family")[["log_likelihood", "bleu"]].max()
        gap = best.loc["flow"] - best.drop("flow").agg({"log_likelihood": "max", "bleu": "min"})
        rows.append({"corpus": corpus, "train_data": data,
                     "LL: best flow - best other": gap["log_likelihood"],
                     "BLEU: best flow - worst other family's best": gap["bleu"]})
    return pd.DataFrame(rows)


def _distillation() -> pd.DataFrame:
    """Mean change of LL over all models, and of BLEU over the latent ones."""
    systems = pd.concat([part.assign(corpus=corpus) for corpus, _, part in _systems()])
    keys, numbers = ["corpus", "family", "model"], ["log_likelihood", "bleu"]
    raw, distilled = (systems[systems["train_data"] == data].set_index(keys)[numbers]
                      for data in ("raw", "distilled"))
    change = (distilled - raw).reset_index()
    latent = change[change["family"] != "autoregressive"]
    return pd.DataFrame({
        "mean change of LL": change.groupby("corpus", sort=False)["log_likelihood"].mean(),
        "of latent models' BLEU": latent.groupby("corpus", sort=False)["bleu"].mean(),
    }).reset_index()


def _refinement() -> pd.DataFrame:
    """BLEU after k steps."""
    wide = table(3).pivot_table(index="model", columns="refinement_steps", values="bleu",
                                sort=False)
    gain = wide[4] - wide[0]
    return wide.rename(columns=lambda k: f"BLEU, k = {k}").assign(gain=gain).reset_index()


def _speed() -> pd.DataFrame:
    """BLEU, and speed over Tr-B's beam search."""
    shown = table(4).dropna(subset="sentences_per_second")
    baseline = value(4, "sentences_per_second", model="tr_b", setting="beam4")
    return shown[["model", "train_data", "setting", "bleu"]].assign(
        **{"speed over Tr-B beam4": shown["sentences_per_second"] / baseline})
