"""The paper's open question (10): the decoder's factorisation, or the training objective.

Lee et al. (2020), section 6, ask whether the discrepancy between density and generation is "mainly
caused by the difference in the decoding distribution (autoregressive vs. factorized) or the
training objective (maximum likelihood vs. ELBO)". Here both are crossed, and each factor is
changed alone in controlled pairs of models (z only together with the ELBO that it needs). A factor
causes a discrepancy where changing it alone moves log-likelihood and BLEU in opposite directions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool
from matplotlib.figure import Figure

from analysis import comparable
from analysis.kinds import PARALLEL
from analysis.resampling import Resamples, bootstrap
from analysis.scatter import draw_systems, name_points
from analysis.significance import pairs
from analysis.style import ARROW, INK, family_keys, key
from analysis.systems import average_seeds
from analysis.tables import MISSING, difference, interval, signed
from analysis.training_variance import SENTENCES
from lib.bleu import TAILS, tokenizer_of
from lib.config import load_config, model_name
from lib.models import model_class
from lib.runs import RunFolder

__all__ = ["CONTRASTS", "EFFECT_COLUMNS", "Contrast", "cause", "compact", "contrasted",
           "contrasts_figure", "effects", "impossible", "limits", "resampled", "two_by_two"]

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
LOOKS = {OBJECTIVE: ("objective alone", "-", INK),
         FACTORISATION: ("factorisation alone", "--", "#666666"),
         LATENT: ("z, and its ELBO", ":", "#666666")}


# ---- which runs ----

def contrasted(frame: pd.DataFrame) -> list[str]:
    """The models of all contrasts, the Transformer chosen from the rows of `systems.collect`: the
    one whose number of parameters is nearest to that of Da-B (else of any other of them).
    """
    names = dict.fromkeys(name for of in CONTRASTS for name in (of.first, of.second))
    others = [name for name in names if name != NEAREST]
    sizes = frame.drop_duplicates("model").set_index("model")["parameters"]
    transformers = [name for name in ("tr_s", "tr_b", "tr_l") if name in sizes.index]
    peers = [name for name in ("da_b", *others) if name in sizes.index]
    if not transformers or not peers:
        return [*(transformers[:1] or ["tr_b"]), *others]
    nearest = min(transformers, key=lambda name: abs(math.log(sizes[name] / sizes[peers[0]])))
    return [nearest, *others]


def impossible(frame: pd.DataFrame) -> Bool[np.ndarray, " sentences"]:
    """Which test sentences some run gives probability 0: their log-likelihood counts nowhere."""
    finite = [np.isfinite(run.read_sentences()["log_prob"].to_numpy(np.float64))
              for run in frame["run"]]
    return ~np.all(finite, axis=0)


def resampled(frame: pd.DataFrame, references: Sequence[str], *, calibrated: bool = False,
              samples: Sequence[int] = ()) -> Resamples:
    """Strict log-likelihood and BLEU of the rows on the same resamples of the test sentences.

    BLEU is over all sentences, log-likelihood over those to which every run gives some probability.
    calibrated: of each run at its temperature (`lib.evaluation.temperature`). samples: of each
    run's bound, where not all that it has. Errors: DataError for runs that can't be compared.
    """
    comparable.check(frame, ["strict"])
    comparable.check_text(frame, references)
    never, tables = impossible(frame), []
    for run, count in zip(frame["run"], samples or [0] * len(frame), strict=True):
        table = run.read_sentences(calibrated=calibrated, samples=count)
        counted = [name for name in table if name.startswith("iw_bound_")
                   or name in ("n_tokens", "log_prob", "log_p_length")]
        tables.append(table.assign(**{name: table[name].where(~never, 0) for name in counted}))
    return bootstrap(tables, references, "strict",
                     tokenizer=next(iter(frame["signature"].map(tokenizer_of)), "13a"))["strict"]


# ---- the effects of each factor ----

def effects(frame: pd.DataFrame, drawn: Resamples) -> pd.DataFrame:
    """A row a contrast and training data whose two models are there: `EFFECT_COLUMNS`.

    frame: `systems.collect`'s rows. drawn: of `resampled`. Deltas are the second model's value
    minus the first's, with the intervals, `order` and `over` of `significance.pairs`.
    """
    nearest = contrasted(frame)[0]
    table = pairs(frame, {"strict": drawn})
    table = table[table["first_data"] == table["second_data"]]
    opposite = {f"{name}_{end}": -table[f"{name}_{other}"] for name in ("ll", "bleu")
                for end, other in (("delta", "delta"), ("low", "high"), ("high", "low"))}
    turned = table.rename(columns={"first": "second", "second": "first",
                                   "first_seeds": "second_seeds", "second_seeds": "first_seeds"})
    both = pd.concat([table.assign(**opposite), turned])
    rows = []
    for data in ("raw", "distilled"):
        for contrast in CONTRASTS:
            ends = [nearest if name == NEAREST else name
                    for name in (contrast.first, contrast.second)]
            pair = both[(both[["train_data", "first", "second"]] == [data, *ends]).all(axis=1)]
            rows.append(pair.assign(factor=contrast.factor, change=contrast.change))
    return pd.concat(rows, ignore_index=True)[EFFECT_COLUMNS]


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """`effects` for reading: a row a contrast, its two differences with their intervals."""
    return pd.DataFrame([{
        "factor": row["factor"],
        "from → to": f"{model_name(row['first'])} → {model_name(row['second'])}",
        "trained on": row["train_data"], "seeds": f"{row['first_seeds']}, {row['second_seeds']}",
        "LL": difference(row, "ll", 2), "BLEU": difference(row, "bleu"),
        "order": row["order"], "intervals over": row["over"]} for row in table.to_dict("records")])


# ---- the answer ----

def cause(table: pd.DataFrame, train_data: str = "raw") -> str:
    """The paper's question answered for models trained on this text, in one sentence, with the
    counts that it follows from. table: of `effects`.
    """
    same = table[table["train_data"] == train_data]
    orders = {factor: same.loc[same["factor"] == factor, "order"].tolist()
              for factor in (OBJECTIVE, FACTORISATION)}
    if lacking := [factor for factor, of in orders.items() if not of]:
        return (f"On {train_data} text the question has no answer yet: no controlled pair of the "
                f"{' nor of the '.join(lacking)} is there.")
    apart = [factor for factor, of in orders.items() if "disagree" in of]
    unsure = [factor for factor, of in orders.items() if set(of) == {"undecided"}]
    answer = ("changing either can part" if len(apart) == 2 else
              f"changing the {apart[0]} can part" if apart else
              f"it is undecided whether changing the {' or the '.join(unsure)} parts" if unsure else
              "no such change was seen to part")
    counts = " and ".join(
        f"in {of.count('disagree')} of {len(of)} pairs that change the {factor} alone (together in "
        f"{of.count('agree')})" for factor, of in orders.items())
    latent = same[(same["factor"] == LATENT) & (same["order"] == "disagree")]
    return (f"On {train_data} text {answer} LL and BLEU, which move in opposite directions "
            f"{counts}."
            + ("" if latent.empty else
               " The pair that adds z, and the ELBO that it needs, parts them."))


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
    if stopped := sum(end != "patience" for end in ended):
        lines.append(f"{stopped} of {len(ended)} runs weren't trained until dev BLEU stood still "
                     "(metrics.json: training): what converges more slowly looks worse.")
    lines += ["Md's subwords come in any order, Tr's from left to right: that pair changes the "
              "order along with the objective. Its LL is a lower bound, which exaggerates the "
              "objective's effect on LL by what the bound lacks.",
              "Ga differs from Na by z and, as z can't be summed out, by the ELBO."]
    started = [model_name(row.model) for row in frame.drop_duplicates("model").itertuples()
               if row.model in contrasted(frame)
               and load_config(row.model, row.dataset, row.scale).training.start_from]
    if started:
        lines.append(f"{', '.join(started)} started from a trained Transformer's weights, the "
                     "other models of the pairs from scratch.")
    if never := int(impossible(frame).sum()):
        lines.append(f"{never:,} test sentences have probability 0 under some model: they count "
                     "for BLEU and not for LL.")
    return "\n".join(f"- {line}" for line in lines)


# ---- the 2x2 ----

def two_by_two(frame: pd.DataFrame, drawn: Resamples) -> pd.DataFrame:
    """Decoder and training data (rows) against objective (columns): each cell its models with
    LL (strict), what kind of number that is, and BLEU with its interval; seeds averaged. Of a
    masked model also LL in the order that its own search takes, where that is known.

    frame: `systems.collect`'s rows. drawn: of `resampled`.
    """
    objectives = (EXACT, ELBO)
    systems, averaged = average_seeds(frame, {"strict": drawn})
    cells: dict[tuple, list[str]] = {}
    for place, system in systems.iterrows():
        decoder = FACTORISED if system["family"] in PARALLEL else AR
        cells.setdefault((decoder, system["train_data"], _trained_by(system["run"])), []).append(
            _cell(system, averaged["strict"], place))
    return pd.DataFrame([{"decoder": decoder, "trained on": data} | {
        f"trained by {objective}": "<br>".join(cells.get((decoder, data, objective), [MISSING]))
        for objective in objectives}
        for data in dict.fromkeys(systems["train_data"]) for decoder in (AR, FACTORISED)])


def _trained_by(run: RunFolder) -> str:
    """What the run's training minimised: EXACT or ELBO."""
    name = run.read_metrics().objective or load_config(run.model, run.dataset, run.scale).objective
    return {"ELBO": ELBO, "best_path": ELBO, "likelihood": EXACT, "marginal": EXACT}[name]


def _cell(system: pd.Series, drawn: Resamples, place: int) -> str:
    """One model in words."""
    architecture = load_config(system["model"], system["dataset"], system["scale"]).architecture
    exact = model_class(architecture).likelihood == "exact"
    kind = "exact" if exact else f"bound, K = {system['strict_samples']:,.0f}"
    if not math.isnan(system["policy"]):
        kind += f"; {signed(system['policy'], 2)} in its own order"
    ends = np.quantile(drawn.bleu_resampled[:, place], TAILS)
    seeds = f", {system['seeds']} seeds" if system["seeds"] > 1 else ""
    return (f"{model_name(system['model'])}: LL {signed(drawn.likelihood[place], 2)} ({kind}), "
            f"BLEU {interval(drawn.bleu[place], *ends)}{seeds}")


# ---- the figure ----

def contrasts_figure(frame: pd.DataFrame, drawn: Resamples, table: pd.DataFrame) -> Figure:
    """LL against BLEU of the contrasts' models, a panel a training text that has such a pair;
    arrows change one factor.

    frame, drawn, table: `systems.collect`'s rows, `resampled` and `effects` of them.
    """
    systems, averaged = average_seeds(frame, {"strict": drawn})
    of = averaged["strict"]
    systems = systems.assign(strict=of.likelihood, bleu=of.bleu,
                             strict_error=of.likelihood_resampled.std(0),
                             bleu_error=of.bleu_resampled.std(0))
    texts = list(dict.fromkeys(table["train_data"])) or ["raw"]
    figure, panels = Figure(figsize=(4.4 * len(texts) + 0.4, 4.3)), []
    for axes, data in zip(figure.subplots(1, len(texts), squeeze=False)[0], texts, strict=True):
        chosen = (systems["train_data"] == data) & systems["model"].isin(contrasted(frame))
        part = draw_systems(axes, systems[chosen], "strict")
        places = part.set_index("model")[["strict", "bleu"]]
        for row in table[table["train_data"] == data].itertuples():
            _, dashes, colour = LOOKS[row.factor]
            axes.annotate("", places.loc[row.second], places.loc[row.first], zorder=2,
                          arrowprops=ARROW | {"linestyle": dashes, "color": colour})
        axes.set_title(f"trained on {data} text")
        panels.append((axes, part, "strict", "bleu"))
    keys = [key(name, colour, "", ls=dashes) for name, dashes, colour in LOOKS.values()]
    figure.legend(handles=[*family_keys(set(table["first"]) | set(table["second"])), *keys],
                  loc="outside lower center", ncols=5 if len(texts) > 1 else 3)
    name_points(figure, panels)
    return figure
