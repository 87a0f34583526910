"""The paper's Table 4 and its neighbours, from what `lib.evaluation.speed` measured."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import published
from analysis import style as plots
from lib.errors import ConfigError
from lib.evaluation.speed import KEYS
from lib.paths import ROOT, outputs_root

__all__ = ["bench_latency", "bench_table", "latency_figure", "latency_sentence", "latency_slopes",
           "other_systems", "table4", "table4_sentence"]

OTHERS = ROOT / "benchmarks" / "other_systems.csv"


def table4(speed: pd.DataFrame, baseline: tuple[str, str] = ("tr_b", "beam4")) -> pd.DataFrame:
    """Sizes, sentences a second and ratios, a row a system: the paper's Table 4 and its neighbours.

    `vs <baseline>`: speed at batch size 1 over the baseline's at the same weights (`auto` where it
    has no such row); `vs CTranslate2`: over that engine's beam search in fp32, where it was timed;
    `paper`: over Tr-B's beam search on a GPU, NaN where it isn't transcribed.

    Errors: ConfigError where the baseline wasn't timed.
    """
    wide = speed.pivot_table(index=KEYS[:4], columns="batch", values="sentences_per_second",
                             sort=False).reset_index()
    own = wide[(wide["system"] == baseline[0]) & (wide["setting"] == baseline[1])]
    if own.empty or 1 not in wide:
        raise ConfigError(f"Table 4 compares with {' '.join(baseline)} at batch size 1: "
                          "time it too")
    own = own.set_index("weights")[1]
    outside = wide[(wide["system"] == "ctranslate2") & (wide["weights"] == "float32")]
    theirs = float(outside[1].iloc[0]) if len(outside) else np.nan
    name = published.MODELS.get(baseline[0], baseline[0])
    cells = published.table4()
    result = wide.rename(columns={b: f"sentences/s, batch {b}" for b in speed["batch"].unique()})
    result[f"vs {name} {baseline[1]}"] = [
        row[1] / own.get(row["weights"], own.iloc[0]) for _, row in wide.iterrows()]
    result["vs CTranslate2"] = wide[1] / theirs
    result["paper"] = [_published(cells, row.system, row.setting) for row in wide.itertuples()]
    return result


def table4_sentence(table: pd.DataFrame) -> str:
    """Our ratios beside the paper's, in a sentence."""
    column = next(name for name in table if name.startswith("vs ") and name != "vs CTranslate2")
    told = [f"{published.MODELS[row['system']]} {row['setting']} is {row[column]:.1f} times as fast"
            + (f" (the paper: {row['paper']:.1f})" if row["paper"] == row["paper"] else "")
            for _, row in table.iterrows()
            if row["weights"] == "auto" and row["setting"] in ("k0", "k1")]
    against = column.removeprefix("vs ")
    return f"One sentence at a time, against {against}: {', '.join(told)}."


def latency_slopes(latency: pd.DataFrame) -> pd.DataFrame:
    """What a subword more costs: least squares of CPU milliseconds on target length, a system.

    `growth` is the slope times the span of lengths, over the mean: 0 for a constant latency.
    """
    rows = []
    for (system, setting, weights), part in latency.groupby(["system", "setting", "weights"],
                                                            sort=False):
        lengths, spent = part["target_length"], part["cpu_milliseconds"]
        slope = np.polyfit(lengths, spent, 1)[0] if lengths.max() > lengths.min() else np.nan
        rows.append({"system": system, "setting": setting, "weights": weights,
                     "milliseconds": part["milliseconds"].median(),
                     "milliseconds a subword": slope,
                     "growth": slope * (lengths.max() - lengths.min()) / spent.mean()})
    return pd.DataFrame(rows)


def latency_sentence(latency: pd.DataFrame) -> str:
    """How latency grows over the lengths that were timed, in a sentence."""
    slopes = latency_slopes(latency[latency["weights"] == latency["weights"].iloc[0]])
    lengths = latency["target_length"]
    told = ", ".join(f"{published.MODELS.get(row.system, row.system)} {row.setting} "
                     f"{round(row.growth, 2) + 0.0:+.0%}" for row in slopes.itertuples())
    return (f"From {lengths.min():.0f} to {lengths.max():.0f} subwords CPU time grows, by a "
            f"straight line through all sentences and relative to its mean, by: {told}.")


def latency_figure(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """Latency against target length, a panel for each titled table of `latencies`.

    One colour a family, one line style a setting.
    """
    figure = Figure(figsize=(6.4 * len(panels), 4), layout="constrained")
    for axes, (title, latency) in zip(np.atleast_1d(figure.subplots(1, len(panels))),
                                      panels.items(), strict=True):
        drawn = dict.fromkeys(latency["system"], 0)
        for (system, setting, weights), part in latency.groupby(["system", "setting", "weights"],
                                                                sort=False):
            known = system in published.MODELS
            colour, marker = plots.style(system) if known else (plots.INK, "x")
            line = ("-", "--", ":", "-.")[drawn[system] % 4]
            drawn[system] += 1
            middle = part.groupby(part["target_length"].round())["milliseconds"].median()
            label = f"{published.MODELS.get(system, system)} {setting}"
            label += "" if weights == "auto" else f" {weights}"
            axes.plot(middle.index, middle, line, color=colour, marker=marker, markersize=3,
                      label=label)
        axes.set_ylim(bottom=0)
        axes.set_title(title, fontsize=10)
        plots.finish(axes, "target length (subwords with EOS)",
                     "latency (ms a sentence, lower is better)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def bench_table() -> pd.DataFrame | None:
    """Table 4 of the benchmark at the published sizes, None where `make bench` hasn't run."""
    frame = _bench("decoding")
    return None if frame is None else table4(frame, ("tr_s", "beam4"))


def bench_latency() -> pd.DataFrame | None:
    """Latencies of the benchmark in each engine's fp32 or bf16, None where it hasn't run."""
    frame = _bench("latency")
    return None if frame is None else frame[frame["weights"] != "int8"]


def other_systems(speed: pd.DataFrame | None = None) -> pd.DataFrame | None:
    """Ours beside other projects' systems that do the same work, a row a system and batch size.

    Theirs were timed on another machine (benchmarks/other_systems.csv says which), so both are
    divided by the speed of the same yardstick on their own machine, CTranslate2's beam search in
    fp32: `theirs`, `ours`; `times as fast` is the ratio of the two, `goal` what it was meant to be.
    `by matrix rate`: the same with each machine's bf16 matrix products a second as the yardstick,
    ours from outputs/bench/likelihood.csv. The two differ where a machine's products outgrow the
    rest of it.

    `speed`: rows as `lib.evaluation.speed.speeds` gives them; by default those of
    `make bench`. None where that, or its yardstick, is missing.
    """
    speed = _bench("decoding") if speed is None else speed
    if speed is None:
        return None
    timed = speed[speed["weights"].isin(["auto", "float32"])].set_index(
        ["system", "setting", "batch"])["sentences_per_second"]
    products = _bench("likelihood")
    rate = np.nan if products is None else products.loc[
        products["threads"] == 1, "matrix_flops_per_cpu_second"].median() / 1e9
    rows = []
    for row in pd.read_csv(OTHERS, comment="#").itertuples():
        own = timed.get((row.ours, row.ours_setting, row.batch))
        yardstick = timed.get(("ctranslate2", "beam4", row.batch))
        if own is not None and yardstick is not None:
            theirs, ours = row.sentences_per_second / row.ctranslate2, own / yardstick
            rows.append({"other system": f"{row.system} {row.setting}",
                         "ours": f"{published.MODELS[row.ours]} {row.ours_setting}",
                         "batch": row.batch, "theirs / CTranslate2": theirs,
                         "ours / CTranslate2": ours, "times as fast": ours / theirs,
                         "by matrix rate": own / rate / (row.sentences_per_second
                                                         / row.matrix_gflops),
                         "goal": row.goal})
    return pd.DataFrame(rows) if rows else None


def _bench(name: str) -> pd.DataFrame | None:
    path = outputs_root() / "bench" / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else None


def _published(cells: pd.DataFrame, model: str, setting: str) -> float:
    """The paper's ratio; its Fl-B is taken for k = 0 and its beam search for any width."""
    found = published.value(cells, model=model, setting=setting, metric="speed_ratio")
    if np.isnan(found) and (setting == "k0" or setting.startswith("beam")):
        found = published.value(cells, model=model, setting="", metric="speed_ratio")
    return found
