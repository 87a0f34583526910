"""The paper's open question (10): the decoder's factorisation, or the training objective.

Lee et al. (2020), section 6, ask whether the discrepancy between density and generation is "mainly
caused by the difference in the decoding distribution (autoregressive vs. factorized) or the
training objective (maximum likelihood vs. ELBO)". Here both are crossed, and each factor is
changed alone in controlled pairs of models. A factor causes a discrepancy where changing it alone
moves log-likelihood and BLEU in opposite directions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import comparable
from analysis.resampling import Resamples, bootstrap
from analysis.scatter import name_points
from analysis.significance import pairs
from analysis.style import INK, family_keys, finish, style
from analysis.systems import average_seeds
from analysis.tables import MISSING, interval, signed
from analysis.training_variance import SENTENCES
from lib.bleu import TAILS, tokenizer_of
from lib.config import load_config, model_name
from lib.models import model_class
from lib.runs import RunFolder

__all__ = ["CONTRASTS", "EFFECT_COLUMNS", "Contrast", "commands", "compact", "disagreements",
           "drawing", "effects", "impossible", "limits", "needed", "resampled", "two_by_two",
           "verdict"]

NEAREST = "tr"  # the Transformer whose number of parameters is nearest to Da-B's
AR, FACTORISED = "autoregressive", "factorised"
EXACT, ELBO = "exact likelihood", "ELBO"
OBJECTIVE, FACTORISATION, LATENT = "objective", "factorisation", "z"


@dataclass(frozen=True)
class Contrast:
    """Two models that differ in one factor; its effect is what `second` has above `first`."""

    factor: str
    first: str
    second: str
    change: str
    """from what to what, in words"""


CONTRASTS = (
    Contrast(OBJECTIVE, "dp_b", "da_b", "ELBO of the best path → sum over paths"),
    Contrast(OBJECTIVE, "md_b", NEAREST, "ELBO over random orders → exact, left to right"),
    Contrast(FACTORISATION, "na_b", "da_b", "independent subwords → a path through a graph"),
    Contrast(FACTORISATION, "da_b", NEAREST, "a path through a graph → autoregressive"),
    Contrast(FACTORISATION, "na_b", "ct_b", "independent subwords → an alignment with blanks"),
    Contrast(FACTORISATION, "ct_b", NEAREST, "an alignment with blanks → autoregressive"),
    Contrast(LATENT, "na_b", "ga_b", "no z → Gaussian z (and the ELBO that it needs)"),
)
"""The controlled pairs, a factor at a time."""

EFFECT_COLUMNS = ["factor", "change", "first", "second", "train_data", "first_seeds",
                  "second_seeds", "ll_delta", "ll_low", "ll_high", "bleu_delta", "bleu_low",
                  "bleu_high", "order", "over"]
LOOKS = {OBJECTIVE: ("-", INK), FACTORISATION: ("--", "#666666"), LATENT: (":", "#666666")}


# ---- which runs ----

def needed(frame: pd.DataFrame) -> list[str]:
    """The models of all contrasts, the Transformer chosen from the rows of `systems.collect`: the
    one whose number of parameters is nearest to that of Da-B (else of any other of them).
    """
    names = [name for contrast in CONTRASTS for name in (contrast.first, contrast.second)]
    others = [name for name in dict.fromkeys(names) if name != NEAREST]
    sizes = frame.drop_duplicates("model").set_index("model")["parameters"]
    transformers = [name for name in ("tr_s", "tr_b", "tr_l") if name in sizes.index]
    peers = [name for name in ("da_b", *others) if name in sizes.index]
    if not transformers or not peers:
        return [*(transformers[:1] or ["tr_b"]), *others]
    nearest = min(transformers, key=lambda name: abs(math.log(sizes[name] / sizes[peers[0]])))
    return [nearest, *others]


def commands(frame: pd.DataFrame, dataset: str, scale: str) -> pd.DataFrame:
    """A row a run that the contrasts lack: model, train_data, and the two lines that make it."""
    there = set(zip(frame["model"], frame["train_data"], strict=True))
    missing = [RunFolder(dataset, scale, model, data) for model in needed(frame)
               for data in ("raw", "distilled") if (model, data) not in there]
    return pd.DataFrame([{"model": run.model, "train data": run.train_data,
                          "command": f"{run.train_command} && {run.evaluate_command}"}
                         for run in missing], columns=["model", "train data", "command"])


def impossible(frame: pd.DataFrame) -> Bool[np.ndarray, " sentences"]:
    """Which test sentences some run gives probability 0: their log-likelihood counts nowhere."""
    finite = [np.isfinite(run.read_sentences()["log_prob"].to_numpy(np.float64))
              for run in frame["run"]]
    return ~np.all(finite, axis=0)


def resampled(frame: pd.DataFrame, references: Sequence[str], *, calibrated: bool = False,
              ) -> Resamples:
    """Strict log-likelihood and BLEU of the rows on the same resamples of the test sentences.

    BLEU is over all sentences, log-likelihood over those to which every run gives some probability.
    calibrated: of each run at its temperature (`lib.evaluation.temperature`).
    Errors: DataError for runs that can't be compared.
    """
    comparable.check(frame, ["strict"])
    comparable.check_text(frame, references)
    never = impossible(frame)
    tables = []
    for run in frame["run"]:
        table = run.read_sentences(calibrated=calibrated)
        counted = ["n_tokens", "log_prob", "log_p_length",
                   *(name for name in table if name.startswith("iw_bound_"))]
        tables.append(table.assign(**{name: table[name].where(~never, 0) for name in counted}))
    return bootstrap(tables, references, "strict",
                     tokenizer=next(iter(frame["signature"].map(tokenizer_of)), "13a"))["strict"]


# ---- the effects of each factor ----

def effects(frame: pd.DataFrame, drawn: Resamples) -> pd.DataFrame:
    """A row a contrast and training data whose two models are there: `EFFECT_COLUMNS`.

    frame: `systems.collect`'s rows. drawn: of `resampled`. Deltas are the second model's value
    minus the first's, with the 95% intervals of `significance.pairs` (paired over test sentences;
    wider by what training varies, where seeds tell, and by what a bound may still rise by).
    order: agree (both moved alike), disagree, or undecided (an interval contains zero); over: what
    the intervals are over.
    """
    nearest = needed(frame)[0]
    found = pairs(frame, {"strict": drawn})
    rows = []
    for data in ("raw", "distilled"):
        same = found[(found["first_data"] == data) & (found["second_data"] == data)]
        for contrast in CONTRASTS:
            ends = [nearest if name == NEAREST else name
                    for name in (contrast.first, contrast.second)]
            row = _oriented(same, *ends)
            if row is not None:
                rows.append({"factor": contrast.factor, "change": contrast.change,
                             "train_data": data} | row)
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def _oriented(found: pd.DataFrame, first: str, second: str) -> dict | None:
    """The pair's differences as second minus first; None where it isn't there."""
    for sign, a, b in ((1, second, first), (-1, first, second)):
        row = found[(found["first"] == a) & (found["second"] == b)]
        if len(row):
            row = row.iloc[0]
            effect = {"first": first, "second": second, "order": row["order"],
                      "over": row["over"]}
            seeds = [int(row["first_seeds"]), int(row["second_seeds"])][::-sign]
            effect |= dict(zip(("first_seeds", "second_seeds"), seeds, strict=True))
            for name in ("ll", "bleu"):
                ends = sorted(sign * row[f"{name}_{end}"] for end in ("low", "high"))
                effect |= {f"{name}_delta": sign * row[f"{name}_delta"], f"{name}_low": ends[0],
                           f"{name}_high": ends[1]}
            return effect
    return None


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """`effects` for reading: a row a contrast, its two differences with their intervals."""
    return pd.DataFrame([{
        "factor": row.factor, "from → to": f"{model_name(row.first)} → {model_name(row.second)}",
        "trained on": row.train_data, "seeds": f"{row.first_seeds}, {row.second_seeds}",
        "LL": interval(row.ll_delta, row.ll_low, row.ll_high, digits=2, plus=True),
        "BLEU": interval(row.bleu_delta, row.bleu_low, row.bleu_high, plus=True),
        "order": row.order, "intervals over": row.over} for row in table.itertuples()])


def disagreements(frame: pd.DataFrame, drawn: Resamples) -> pd.DataFrame:
    """Every pair of systems of one training text that LL and BLEU order differently, whatever the
    two differ in: the one with the better BLEU, the one with the better LL, and both differences
    (the former minus the latter), the largest of BLEU first.
    """
    found = pairs(frame, {"strict": drawn})
    found = found[(found["first_data"] == found["second_data"]) & (found["order"] == "disagree")]
    rows = []
    for row in found.itertuples():
        ends = (row.first, row.second) if row.bleu_delta > 0 else (row.second, row.first)
        same = found[found["first_data"] == row.first_data]
        rows.append({"train data": row.first_data} | _oriented(same, *ends[::-1]))
    rows.sort(key=lambda row: -row["bleu_delta"])
    return pd.DataFrame([{
        "trained on": row["train data"], "better BLEU": model_name(row["second"]),
        "better LL": model_name(row["first"]),
        "LL": interval(row["ll_delta"], row["ll_low"], row["ll_high"], digits=2, plus=True),
        "BLEU": interval(row["bleu_delta"], row["bleu_low"], row["bleu_high"], plus=True)}
        for row in rows], columns=["trained on", "better BLEU", "better LL", "LL", "BLEU"])


# ---- the answer ----

def verdict(table: pd.DataFrame, train_data: str = "raw") -> str:
    """The paper's question answered for models trained on this text, in one sentence.

    table: of `effects`. Every branch follows from the `order`s of the two factors' contrasts; how
    many of them there are is said.
    """
    same = table[table["train_data"] == train_data]
    ways = {factor: _way(same, factor) for factor in (OBJECTIVE, FACTORISATION)}
    lacking = [factor for factor, way in ways.items() if not way]
    if lacking:
        return (f"On {train_data} text the question has no answer yet: no controlled pair of the "
                f"{' nor of the '.join(lacking)} is there.")
    apart = [factor for factor, way in ways.items() if way in ("apart", "both ways")]
    if len(apart) == 2:
        answer = ("both cause a discrepancy: LL and BLEU move in opposite directions "
                  f"{_in_how_many(same, OBJECTIVE)} and {_in_how_many(same, FACTORISATION)}")
    elif apart:
        other = FACTORISATION if apart == [OBJECTIVE] else OBJECTIVE
        answer = (f"it is the {apart[0]}: LL and BLEU move in opposite directions "
                  f"{_in_how_many(same, apart[0])}, changing the {other} alone "
                  + ("moves them together" if ways[other] == "together" else "is undecided"))
    elif "undecided" in ways.values():
        unsure = [factor for factor, way in ways.items() if way == "undecided"]
        answer = (f"undecided for the {' and the '.join(unsure)}: no controlled pair moves both LL "
                  "and BLEU by more than chance could"
                  + ("" if len(unsure) == 2 else "; the other factor moves them together"))
    else:
        answer = ("neither causes a discrepancy: changing the objective alone, or the "
                  "factorisation alone, moves LL and BLEU in the same direction")
    counted = same[same["factor"] != LATENT]
    whole = sum(contrast.factor != LATENT for contrast in CONTRASTS)
    return (f"On {train_data} text {answer} ({len(counted)} of {whole} controlled pairs; "
            f"{_sizes(counted)})." + _of_latents(same))


def _of_latents(same: pd.DataFrame) -> str:
    """A further sentence where z parts LL and BLEU, which the paper's question doesn't name."""
    row = same[(same["factor"] == LATENT) & (same["order"] == "disagree")]
    return "" if row.empty else (" What parts them is z with the ELBO that it needs "
                                 f"({_sizes(row)}).")


def _way(same: pd.DataFrame, factor: str) -> str:
    """How the factor's contrasts move LL and BLEU: together, apart, both ways, undecided; "" where
    there is none.
    """
    orders = set(same.loc[same["factor"] == factor, "order"])
    if not orders:
        return ""
    found = orders - {"undecided"}
    return {0: "undecided", 2: "both ways"}.get(
        len(found), "together" if found == {"agree"} else "apart")


def _in_how_many(same: pd.DataFrame, factor: str) -> str:
    """In how many of the factor's contrasts LL and BLEU disagree, in words."""
    orders = same.loc[same["factor"] == factor, "order"]
    apart = int((orders == "disagree").sum())
    return f"in {apart} of {len(orders)} pairs that change the {factor} alone"


def _sizes(counted: pd.DataFrame) -> str:
    """By how much each contrast moves both, in words."""
    return "; ".join(
        f"{row.factor}, {model_name(row.first)} → {model_name(row.second)}: LL "
        f"{signed(row.ll_delta, 2, plus=True)}, BLEU {signed(row.bleu_delta, 1, plus=True)}"
        for row in counted.itertuples())


def limits(frame: pd.DataFrame, table: pd.DataFrame) -> str:
    """What the answer can't say, as a list in Markdown."""
    lines = ["One corpus and one scale: nothing here says that it holds at another."]
    single = table[["first_seeds", "second_seeds"]].min(axis=1) < 2
    alone = int((single & (table["over"] == SENTENCES)).sum())
    if alone:
        lines.append(f"{alone} of {len(table)} rows rest on one seed a model: their intervals are "
                     "over test sentences and say nothing of another training.")
    if pooled := int(single.sum()) - alone:
        lines.append(f"{pooled} of {len(table)} rows have a model with one seed: in their "
                     "intervals its training varies as that of models that have several.")
    ended = [run.read_metrics().training.get("ended_by") for run in frame["run"]]
    stopped = sum(end != "patience" for end in ended)
    if stopped:
        lines.append(f"{stopped} of {len(ended)} runs weren't trained until dev BLEU stood still "
                     "(metrics.json: training): what converges more slowly looks worse.")
    lines += ["Md's subwords come in any order, Tr's from left to right: that pair changes the "
              "order along with the objective. Its LL is a lower bound, which exaggerates the "
              "objective's effect on LL by what the bound lacks.",
              "Ga differs from Na by z and, as z can't be summed out, by the ELBO."]
    systems = frame.drop_duplicates("model")
    started = [model_name(row.model) for row in systems.itertuples()
               if row.model in needed(frame)
               and load_config(row.model, row.dataset, row.scale).training.start_from]
    if started:
        lines.append(f"{', '.join(started)} started from a trained Transformer's weights, the "
                     "other models of the pairs from scratch.")
    never = int(impossible(frame).sum())
    if never:
        lines.append(f"{never:,} test sentences have probability 0 under some model: they count "
                     "for BLEU and not for LL.")
    return "\n".join(f"- {line}" for line in lines)


# ---- the 2x2 ----

def trained_by(run: RunFolder) -> str:
    """What the run's training minimised: EXACT, ELBO, or with glancing that objective's own name.
    """
    named = run.read_metrics().objective or load_config(run.model, run.dataset,
                                                        run.scale).objective
    return {"ELBO": ELBO, "best_path": ELBO, "likelihood": EXACT, "marginal": EXACT}.get(
        named, named)


def two_by_two(frame: pd.DataFrame, drawn: Resamples) -> pd.DataFrame:
    """Decoder and training data (rows) against objective (columns): each cell its models with
    LL (strict), what kind of number that is, and BLEU with its interval; seeds averaged. Of a
    masked model also LL in the order that its own search takes, where that is known.

    frame: `systems.collect`'s rows. drawn: of `resampled`.
    """
    objectives = dict.fromkeys([EXACT, ELBO, *map(trained_by, frame["run"])])
    systems, averaged = average_seeds(frame, {"strict": drawn})
    cells: dict[tuple, list[str]] = {}
    for place, system in systems.iterrows():
        decoder = AR if system["family"] in ("autoregressive", "masked") else FACTORISED
        key = decoder, system["train_data"], trained_by(system["run"])
        cells.setdefault(key, []).append(_cell(system, averaged["strict"], place))
    return pd.DataFrame([{"decoder": decoder, "trained on": data} | {
        f"trained by {objective}": "<br>".join(cells.get((decoder, data, objective), [MISSING]))
        for objective in objectives}
        for data in dict.fromkeys(systems["train_data"]) for decoder in (AR, FACTORISED)])


def _cell(system: pd.Series, drawn: Resamples, place: int) -> str:
    """One model in words."""
    architecture = load_config(system["model"], system["dataset"], system["scale"]).architecture
    exact = model_class(architecture).likelihood == "exact"
    kind = "exact" if exact else f"bound, K = {system['strict_samples']:,.0f}"
    if not math.isnan(system["policy"]):
        kind += f"; {signed(system['policy'], 2)} in its own order"
    low, high = np.quantile(drawn.bleu_resampled[:, place], TAILS)
    seeds = f", {system['seeds']} seeds" if system["seeds"] > 1 else ""
    return (f"{model_name(system['model'])}: LL {signed(drawn.likelihood[place], 2)} ({kind}), "
            f"BLEU {interval(drawn.bleu[place], low, high)}{seeds}")


# ---- the figure ----

def drawing(frame: pd.DataFrame, drawn: Resamples, table: pd.DataFrame) -> Figure:
    """LL against BLEU of the contrasts' models, a panel a training text; arrows change one factor.

    frame, drawn, table: `systems.collect`'s rows, `resampled` and `effects` of them.
    """
    systems, averaged = average_seeds(frame, {"strict": drawn})
    of = averaged["strict"]
    systems = systems.assign(strict=of.likelihood, strict_error=of.likelihood_resampled.std(0),
                             bleu=of.bleu, bleu_error=of.bleu_resampled.std(0))
    systems = systems[systems["model"].isin(needed(frame))]
    texts = list(dict.fromkeys(systems["train_data"]))
    figure = Figure(figsize=(4.4 * len(texts) + 0.4, 4.3), layout="constrained")
    shown = []
    for axes, data in zip(figure.subplots(1, len(texts), squeeze=False)[0], texts, strict=True):
        part = systems[systems["train_data"] == data].reset_index(drop=True)
        for system in part.itertuples():
            colour, marker = style(system.model)
            axes.errorbar(system.strict, system.bleu, xerr=system.strict_error,
                          yerr=system.bleu_error, fmt=marker, color=colour, ms=8, elinewidth=1,
                          zorder=3)
        places = part.set_index("model")[["strict", "bleu"]]
        for row in table[table["train_data"] == data].itertuples():
            dashes, colour = LOOKS[row.factor]
            axes.annotate("", places.loc[row.second], places.loc[row.first], zorder=2, arrowprops={
                "arrowstyle": "-|>", "linestyle": dashes, "color": colour, "lw": 1.4,
                "shrinkA": 7, "shrinkB": 7})
        finish(axes, "strict LL (nats per token), better →", "BLEU (0 to 100), better →")
        axes.margins(x=0.16, y=0.14)
        axes.set_title(f"trained on {data} text", fontsize=9.5, color=INK, loc="left")
        shown.append((axes, part, "strict", "bleu"))
    keys = [*family_keys(systems["model"]),
            *(Line2D([], [], color=colour, ls=dashes, label=f"{factor} alone")
              for factor, (dashes, colour) in LOOKS.items())]
    figure.legend(handles=keys, loc="outside lower center", ncols=5 if len(texts) > 1 else 3,
                  frameon=False, fontsize=8.5)
    name_points(figure, shown)
    return figure
