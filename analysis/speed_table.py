"""Sizes and speeds: the paper's Table 4 and the latency figure (08).

`python -m analysis.speed_table` writes outputs/tables/model_sizes.csv.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import published
from analysis.style import finish, line
from lib.config import MODELS, family_of, load_config, model_name
from lib.errors import ConfigError
from lib.evaluation.speed import KEYS
from lib.models import build, count_parameters
from lib.paths import outputs_root, writable
from lib.task import Task

__all__ = ["latency_figure", "latency_slopes", "main", "model_sizes", "parameters", "table4"]

DATASETS = {("paper", "wmt"): "wmt14_en_de", ("paper", "iwslt"): "iwslt16_de_en",
            ("mini", "multi30k"): "multi30k_de_en", ("smoke", "toy"): "toy"}
"""(scale, corpus) -> a data set of that size."""


# ---- speeds ----

def table4(speed: pd.DataFrame, baseline: tuple[str, str] = ("tr_b", "beam4")) -> pd.DataFrame:
    """Sizes, sentences a second and ratios, a row a system: the paper's Table 4 and its neighbours.

    `vs <baseline>`: speed at batch size 1 over the baseline's at the same weights (`auto` where it
    has no such row), `_low` and `_high` the least and the most that any two rounds give; `vs
    CTranslate2`: over that engine's beam search in fp32; `paper`: the published ratio to Tr-B's
    beam search.

    Errors: ConfigError where the baseline wasn't timed.
    """
    wide = speed.pivot_table(index=KEYS[:4], columns="batch", values="sentences_per_second",
                             sort=False).reset_index()
    alone = speed[speed["batch"] == 1].set_index(["system", "setting", "weights"])
    own = alone.loc[[key for key in alone.index if key[:2] == baseline]]
    if own.empty:
        raise ConfigError(f"Table 4 compares with {' '.join(baseline)} at batch size 1: "
                          "time it too")
    theirs = alone["sentences_per_second"].get(("ctranslate2", "beam4", "float32"), math.nan)
    result = wide.rename(columns={b: f"sentences/s, batch {b}" for b in speed["batch"].unique()})
    ratios = []
    for key in zip(wide["system"], wide["setting"], wide["weights"], strict=True):
        other = own.loc[(*baseline, key[2])] if (*baseline, key[2]) in own.index else own.iloc[0]
        ours = alone.loc[key]
        ends = (1.0, 1.0) if key[:2] == baseline else (ours["low"] / other["high"],
                                                       ours["high"] / other["low"])
        ratios.append((ours["sentences_per_second"] / other["sentences_per_second"], *ends))
    name = f"vs {model_name(baseline[0])} {baseline[1]}"
    result[[name, f"{name}_low", f"{name}_high"]] = ratios
    result["vs CTranslate2"] = wide[1] / theirs
    result["paper"] = [published_ratio(row.system, row.setting) for row in wide.itertuples()]
    return result


def published_ratio(model: str, setting: str) -> float:
    """The paper's speed over Tr-B's beam search on one V100, batch size 1 (WMT'14 En-De)."""
    def speed(name: str, how: str) -> float:
        return published.value(4, "sentences_per_second", model=name, setting=how)

    return speed(model, setting) / speed("tr_b", "beam4")


def latency_slopes(latency: pd.DataFrame) -> pd.DataFrame:
    """What a subword more costs: least squares of CPU milliseconds on target length, a system.

    `growth` is the slope times the span of lengths, over the mean: 0 for a constant latency.
    """
    rows = []
    for (system, setting), part in latency.groupby(["system", "setting"], sort=False):
        lengths, spent = part["target_length"], part["cpu_milliseconds"]
        slope = np.polyfit(lengths, spent, 1)[0] if lengths.max() > lengths.min() else np.nan
        rows.append({"system": system, "setting": setting,
                     "milliseconds": part["milliseconds"].median(),
                     "milliseconds a subword": slope,
                     "growth": slope * (lengths.max() - lengths.min()) / spent.mean()})
    return pd.DataFrame(rows)


def latency_figure(latency: pd.DataFrame) -> Figure:
    """Latency of single sentences against target length: the first model of each family that was
    timed, as the paper decodes. latency: of `lib.evaluation.speed.latencies`.
    """
    figure = Figure(figsize=(6.4, 4))
    axes, seen = figure.subplots(), set()
    for (system, setting), part in latency.groupby(["system", "setting"], sort=False):
        family = family_of(system)
        if family in seen or setting != published.paper_setting(family):
            continue
        seen.add(family)
        middle = part.groupby(part["target_length"].round())["milliseconds"].median()
        axes.plot(middle.index, middle, **line(system), label=f"{model_name(system)} {setting}")
    axes.set_ylim(bottom=0)
    finish(axes, "target length (subwords with EOS)", "latency (ms a sentence), ← better")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if seen:
        axes.legend()
    return figure


# ---- sizes ----

def parameters(model: str, dataset: str, scale: str, vocabulary: int) -> int:
    """Trained numbers of one model with a joint vocabulary of that size, built without memory."""
    with torch.device("meta"):
        return count_parameters(build(load_config(model, dataset, scale).architecture, vocabulary))


def model_sizes() -> pd.DataFrame:
    """Columns model, corpus, scale, parameters, published (of WMT, NaN where the paper gives none).

    The vocabulary has 32,000 subwords at `paper`, 8,000 at `mini`, the toy corpus's words at
    `smoke`.
    """
    toy = len(Task(load_config(MODELS[0], "toy", "smoke")).vocabulary)
    rows = []
    for (scale, corpus), dataset in DATASETS.items():
        size = toy if scale == "smoke" else load_config(
            MODELS[0], dataset, scale).dataset.vocabulary[scale]
        theirs = published.parameters() if corpus == "wmt" else {}
        rows += [{"model": model, "corpus": corpus, "scale": scale,
                  "parameters": parameters(model, dataset, scale, size),
                  "published": theirs.get(model, math.nan)} for model in MODELS]
    return pd.DataFrame(rows)


def main() -> Path:
    """Write the table of sizes; returns where."""
    path = writable(outputs_root() / "tables") / "model_sizes.csv"
    model_sizes().astype({"published": "Int64"}).to_csv(path, index=False, lineterminator="\n")
    return path


if __name__ == "__main__":
    main()
