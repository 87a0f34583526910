"""How well log-likelihood and BLEU rank models alike: coefficients, exact p-values, intervals."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Num
from scipy.stats import rankdata

from analysis import comparable
from analysis.resampling import Resamples, bootstrap, with_accounting
from analysis.significance import average_seeds
from lib.bleu import tokenizer_of
from lib.errors import DataError
from lib.likelihood.accounting import ACCOUNTINGS, accounting_named
from lib.runs import RunFolder, find_runs

__all__ = [
    "COEFFICIENTS", "RUN_COLUMNS", "Correlation", "collect", "correlate", "kendall",
    "models_table", "pearson", "permutation_p", "resample_runs", "spearman", "two_decoders",
]

RUN_COLUMNS = ["dataset", "scale", "model", "family", "train_data", "seed", "parameters"]
EXACT_UP_TO = 8      # 8! = 40,320 permutations
CHUNK = 500          # permutations at a time, to bound memory


# ---------------------------------------------------------------- coefficients

def pearson(x: Num[np.ndarray, "*#any n"], y: Num[np.ndarray, "*#any n"],
            ) -> Float[np.ndarray, "..."]:
    """Pearson's r along the last axis, leading axes broadcast; NaN where n < 3 (two points
    always lie on a line) or where one side is constant.
    """
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    if x.shape[-1] < 3:
        return np.full(x.shape[:-1], np.nan)
    # a constant side is found before its mean is subtracted, which would leave rounding error
    varies = (np.ptp(x, axis=-1) > 0) & (np.ptp(y, axis=-1) > 0)
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.where(varies, np.clip(r, -1.0, 1.0), np.nan)


def spearman(x: Num[np.ndarray, "*#any n"], y: Num[np.ndarray, "*#any n"],
             ) -> Float[np.ndarray, "..."]:
    """Spearman's rho along the last axis: Pearson's r of the ranks, ties sharing their mean."""
    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def kendall(x: Num[np.ndarray, "*#any n"], y: Num[np.ndarray, "*#any n"],
            ) -> Float[np.ndarray, "..."]:
    """Kendall's tau-b along the last axis: concordant minus discordant pairs, over the geometric
    mean of the pairs untied in x and in y; NaN as for `pearson`.
    """
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    if x.shape[-1] < 3:
        return np.full(x.shape[:-1], np.nan)
    first, second = np.triu_indices(x.shape[-1], k=1)
    in_x, in_y = np.sign(x[..., first] - x[..., second]), np.sign(y[..., first] - y[..., second])
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = (in_x * in_y).sum(-1) / np.sqrt(np.abs(in_x).sum(-1) * np.abs(in_y).sum(-1))
    return np.asarray(tau)


COEFFICIENTS: dict[str, Callable] = {"pearson": pearson, "spearman": spearman, "kendall": kendall}
"""The three coefficients by name, each (x [..., n], y [..., n]) -> [...]."""


def permutation_p(x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"], coefficient: Callable,
                  *, samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided permutation p-value: the share of pairings of x with a permuted y whose
    coefficient is at least as far from zero as the observed one.

    Exact over all n! permutations for n <= 8, else seeded Monte Carlo, (1 + hits) / (1 + samples).
    NaN where the coefficient itself is.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    observed = abs(float(coefficient(x, y)))
    if math.isnan(observed):
        return math.nan
    exact = len(x) <= EXACT_UP_TO
    if exact:
        orders = np.array(list(itertools.permutations(range(len(y)))))
    else:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.tile(np.arange(len(y)), (samples, 1)), axis=1)
    hits = sum(int((np.abs(coefficient(x, y[orders[i:i + CHUNK]])) >= observed - 1e-9).sum())
               for i in range(0, len(orders), CHUNK))
    return hits / len(orders) if exact else (1 + hits) / (1 + samples)


@dataclass(frozen=True)
class Correlation:
    """One pair of quantities over n models or checkpoints.

    Each coefficient lies in [-1, 1] and comes with its two-sided permutation p-value and, where
    resamples were given, the ends of its interval over test sentences (else NaN). The interval
    says how sure the number is for *these* models, not for others of their kind; that is what
    the p-value asks.
    """

    n: int
    pearson: float
    pearson_low: float
    pearson_high: float
    pearson_p: float
    spearman: float
    spearman_low: float
    spearman_high: float
    spearman_p: float
    kendall: float
    kendall_low: float
    kendall_high: float
    kendall_p: float


def correlate(x: Num[np.ndarray, " n"], y: Num[np.ndarray, " n"], *,
              resampled: tuple[np.ndarray, np.ndarray] | None = None, level: float = 0.95,
              samples: int = 10_000, seed: int = 0) -> Correlation:
    """Every coefficient of x and y with n, p-values and, from `resampled` = (x, y), both
    [resamples, n], percentile intervals at `level`.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    fields: dict[str, float] = {"n": len(x)}
    for name, coefficient in COEFFICIENTS.items():
        fields[name] = float(coefficient(x, y))
        fields[f"{name}_p"] = permutation_p(x, y, coefficient, samples=samples, seed=seed)
        low = high = math.nan
        if resampled is not None and not math.isnan(fields[name]):
            drawn = coefficient(*resampled)
            drawn = drawn[~np.isnan(drawn)]      # resamples in which all models tie
            if len(drawn):
                low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        fields |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return Correlation(**fields)


# ---------------------------------------------------------------- run folders

def collect(runs: Iterable[RunFolder] | None = None) -> pd.DataFrame:
    """One row a run: what its metrics.json says, and where it lies.

    Columns: dataset, scale, model, family, train_data, seed, parameters, setting (the headline's
    decoding), bleu, chrf, signature, bleu_mbr (minimum Bayes risk; NaN where it wasn't run), each
    accounting (`paper` ...), its `_error` (standard error) and `_samples`, vocabulary, precision,
    test_set, lines, references and sources (fingerprints), run (the `RunFolder`). `runs` defaults
    to `find_runs()`.

    Errors: DataError for runs that can't be compared (`comparable.check`).
    """
    rows = []
    for run in find_runs() if runs is None else runs:
        metrics = run.read_metrics()
        row = {name: getattr(metrics, name) for name in RUN_COLUMNS}
        row |= {"setting": metrics.headline, "bleu": metrics.own.score, "chrf": metrics.own.chrf,
                "signature": metrics.own.signature,
                "bleu_mbr": metrics.mbr.score if metrics.mbr else math.nan}
        for name in ACCOUNTINGS:
            found = metrics.log_likelihood.get(name)
            row |= {name: found.mean if found else math.nan,
                    f"{name}_error": found.standard_error if found else math.nan,
                    f"{name}_samples": float(found.samples) if found else math.nan}
        rows.append(row | {"vocabulary": metrics.vocabulary, "precision": metrics.precision,
                           "test_set": metrics.test_set.name, "lines": metrics.test_set.lines,
                           "references": metrics.test_set.references,
                           "sources": metrics.test_set.sources, "run": run})
    columns = [*RUN_COLUMNS, "setting", "bleu", "chrf", "signature", "bleu_mbr",
               *(f"{name}{end}" for name in ACCOUNTINGS for end in ("", "_error", "_samples")),
               "vocabulary", "precision", "test_set", "lines", "references", "sources", "run"]
    frame = pd.DataFrame(rows, columns=columns)
    comparable.check(frame)
    return frame


def resample_runs(frame: pd.DataFrame, references: Sequence[str], *accountings: str,
                  hypotheses: str = "hypothesis", **options: int | bool | str,
                  ) -> dict[str, Resamples]:
    """Accounting -> `bootstrap` of the runs of `collect`'s rows (one data set), from their
    sentences.csv; the same resamples for all.

    hypotheses: the column that BLEU is of; `hypothesis_mbr` for minimum Bayes risk.
    Errors: DataError for runs that can't be compared under these accountings, or of another test
    text than `references`.
    """
    comparable.check(frame, accountings)
    comparable.check_text(frame, references)
    options["tokenizer"] = next(iter(frame["signature"].map(tokenizer_of)), "13a")
    tables = [run.read_sentences(hypotheses) for run in frame["run"]]
    first, *others = dict.fromkeys(accountings)
    drawn = {first: bootstrap(tables, references, first, **options)}
    seed = {name: value for name, value in options.items() if name == "seed"}
    return drawn | {name: with_accounting(drawn[first], tables, name, **seed) for name in others}


def models_table(frame: pd.DataFrame, accounting: str, *, resamples: Resamples | None = None,
                 ) -> pd.DataFrame:
    """Correlation of log-likelihood and BLEU across the models of one data set and scale.

    frame: `collect`'s rows; several seeds of a model are one point, their mean.
    resamples: of the same rows, from `resample_runs(frame, ...)`; gives the intervals.
    One row a `scope` ("autoregressive", "gaussian", "flow": within a family; "latent": gaussian
    and flow; "all": across families) and a `train_data`; then `accounting` and the fields of
    `Correlation`. Bits per character enter with their sign turned, so that a positive coefficient
    always means that better likelihood goes with better BLEU. Scopes of fewer than three models
    have n and NaN.
    """
    sign = accounting_named(accounting).sign
    comparable.check(frame, [accounting])
    if frame[["dataset", "scale"]].drop_duplicates().shape[0] > 1:
        raise DataError("the runs are of several data sets or scales; correlate one at a time: "
                        + ", ".join(sorted({f"{d}/{s}" for d, s in
                                            zip(frame["dataset"], frame["scale"], strict=True)})))
    frame, averaged = average_seeds(frame, {} if resamples is None else {accounting: resamples})
    scopes = {"autoregressive": ["autoregressive"], "gaussian": ["gaussian"], "flow": ["flow"],
              "latent": ["gaussian", "flow"], "all": ["autoregressive", "gaussian", "flow"]}
    rows = []
    for data in sorted(frame["train_data"].unique(), reverse=True):   # raw before distilled
        for scope, families in scopes.items():
            chosen = ((frame["train_data"] == data) & frame["family"].isin(families)
                      & frame[accounting].notna()).to_numpy()
            if not chosen.any():
                continue
            drawn = None if not averaged else (
                sign * averaged[accounting].likelihood_resampled[:, chosen],
                averaged[accounting].bleu_resampled[:, chosen])
            found = correlate(sign * frame.loc[chosen, accounting].to_numpy(np.float64),
                              frame.loc[chosen, "bleu"].to_numpy(np.float64), resampled=drawn)
            rows.append({"train_data": data, "scope": scope, "accounting": accounting,
                         **asdict(found)})
    return pd.DataFrame(rows)


def two_decoders(frame: pd.DataFrame, accounting: str, *, headline: Resamples | None = None,
                 mbr: Resamples | None = None) -> pd.DataFrame:
    """`models_table` twice: with BLEU of each run's own decoding, and of minimum Bayes risk.

    frame: rows of `collect` that have a `bleu_mbr`; headline, mbr: resamples of the same rows. A
    first column, `decoder`, is "headline" or "mbr".
    """
    kinds = {"headline": (frame, headline), "mbr": (frame.assign(bleu=frame["bleu_mbr"]), mbr)}
    found = [models_table(runs, accounting, resamples=drawn).assign(decoder=name)
             for name, (runs, drawn) in kinds.items()]
    table = pd.concat(found, ignore_index=True)
    return table[["decoder", *(column for column in table if column != "decoder")]]
