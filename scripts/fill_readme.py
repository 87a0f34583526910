"""Write the README's tables from the committed results: python scripts/fill_readme.py [--check].

A block between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced by what the function of
that name makes of files in outputs/. No number there is typed in by hand.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis import findings as lib_findings
from analysis.audit_figure import verdict
from analysis.published import MODELS as NAMES
from analysis.speed_table import bench_table, other_systems
from analysis.tables import interval, systems
from lib.config import MODELS
from lib.likelihood.accounting import likelihood_terms, ratio_of_sums
from lib.paths import ROOT, outputs_root
from lib.runs import Metrics, RunFolder, find_runs

README = ROOT / "README.md"


def _table(rows: list[dict]) -> str:
    if not rows:
        return "*(no results yet)*"
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _runs(dataset: str, scale: str, train_data: str = "raw") -> list[tuple[RunFolder, Metrics]]:
    folders = [RunFolder(dataset, scale, model, train_data) for model in MODELS]
    return [(f, f.read_metrics()) for f in folders if f.metrics.exists()]


def _results(dataset: str, scale: str) -> str:
    rows = []
    for data in ("raw", "distilled"):
        for folder, metrics in _runs(dataset, scale, data):
            history = folder.read_history()
            bleu = {k: v.score for k, v in metrics.bleu.items()}
            shown = ("greedy", "beam4") if "greedy" in bleu else ("k0", "k1", "k4")
            ll = {name: f"{v.mean:.3f} ± {v.standard_error:.3f}"
                  for name, v in metrics.log_likelihood.items()}
            kl = metrics.diagnostics.get("kl")
            rows.append({
                "model": NAMES[metrics.model], "trained on": data,
                "parameters": f"{metrics.parameters / 1e6:.1f}M",
                "steps": int(history["step"].iloc[-1]),
                "minutes": f"{history['seconds'].iloc[-1] / 60:.0f}",
                "BLEU": ", ".join(f"{s} {bleu[s]:.1f}" for s in shown),
                "LL, strict": ll["strict"], "LL, paper": ll["paper"], "released": ll["released"],
                "K (last tenfold)": _certainty(metrics),
                "KL": "" if kl is None else f"{kl:.2f}"})
    return _table(rows)


def _certainty(metrics: Metrics) -> str:
    """How many importance samples, and what the last tenfold of them added to the strict LL."""
    rise = metrics.convergence.get("rise")
    if not rise:
        return "exact"
    return f"{metrics.log_likelihood['strict'].samples:,} ({rise['strict']['mean']:+.3f})"


KINDS = {"two families, same text": ("across", ["raw", "distilled"]),
         "one family, same text": ("within", ["raw", "distilled"]),
         "raw against distilled text": ("all", ["mixed"])}


def answer() -> str:
    """How many pairs of models log-likelihood and BLEU order alike, a row a data set and
    accounting.
    """
    rows = []
    for dataset, scale in (("toy", "smoke"), ("multi30k_de_en", "mini")):
        path = outputs_root() / "tables" / f"concordance_{dataset}_{scale}.csv"
        if not path.exists():
            continue
        for name in ("strict", "released"):
            table = pd.read_csv(path).query("accounting == @name")
            rows.append({"corpus": f"{dataset}, {scale}", "LL": name} | {
                kind: _agreement(table[(table["scope"] == scope)
                                       & table["train_data"].isin(data)])
                for kind, (scope, data) in KINDS.items()})
    return _table(rows)


def _agreement(table: pd.DataFrame) -> str:
    """Pairs that agree, disagree and are undecided."""
    counts = table[["agree", "disagree", "undecided"]].sum()
    return " / ".join(map(str, counts)) if counts.sum() else "no pairs"


def multi30k() -> str:
    """Results on Multi30k."""
    return _results("multi30k_de_en", "mini")


def reading() -> str:
    """What the Multi30k table says, in sentences."""
    path = outputs_root() / "tables" / "table1_multi30k_de_en_mini_strict.csv"
    runs = {f.model: m for f, m in _runs("multi30k_de_en", "mini")}
    if not path.exists() or not {"tr_s", "ga_b", "fl_s"} <= set(runs):
        return "*(no results yet)*"
    table = systems(pd.read_csv(path)).query("train_data == 'raw'").set_index("model")
    beam = runs["tr_s"].bleu["beam4"].score
    shares = {m: runs[m].bleu["k4"].score / beam for m in ("ga_b", "fl_s")}
    difference, error = _paired("fl_s", "ga_b")
    told = {m: f"{table.bleu[m]:.1f} [{table.bleu_low[m]:.1f}, {table.bleu_high[m]:.1f}]"
            for m in ("tr_s", "ga_b", "fl_s")}
    pairs = pd.read_csv(outputs_root() / "tables" / "significance_multi30k_de_en_mini.csv")
    pair = pairs.query("accounting == 'strict' and first == 'ga_b' and second == 'fl_s' and "
                       "first_data == 'raw' and second_data == 'raw'").iloc[0]
    gap = interval(-pair.bleu_delta, -pair.bleu_high, -pair.bleu_low, plus=True)
    order = {"agree": "density and BLEU rank these two alike",
             "disagree": "density and BLEU rank these two in opposite order",
             "undecided": "whether density and BLEU rank these two alike is undecided"}[pair.order]
    return (
        f"With four refinement steps Ga-B reaches {shares['ga_b']:.1%} and Fl-S "
        f"{shares['fl_s']:.1%} of Tr-S's beam-search BLEU (headline BLEU with 95% intervals over "
        f"resampled test sentences: Tr-S {told['tr_s']}, Ga-B {told['ga_b']}, Fl-S "
        f"{told['fl_s']}). Tr-S is far ahead in density too. Fl-S's strict LL minus Ga-B's is "
        f"{difference:+.3f} nats per token (paired standard error {error:.3f}), its BLEU minus "
        f"Ga-B's {gap} (paired resamples): {order}, on one seed each and lower bounds "
        f"whose tightness differs "
        f"(median effective sample size {runs['ga_b'].diagnostics['effective_sample_size']:.0f} "
        f"and {runs['fl_s'].diagnostics['effective_sample_size']:.0f} of "
        f"{runs['ga_b'].log_likelihood['strict'].samples}).\n\n{_released(runs)}\n\n"
        f"{_trend()}")


def _trend() -> str:
    """How much dev BLEU of each run still rose when its training ended."""
    told = {}
    for data in ("raw", "distilled"):
        for folder, metrics in _runs("multi30k_de_en", "mini", data):
            bleu = folder.read_history()["dev_bleu"]
            told[f"{NAMES[metrics.model]} {data}"] = bleu.iloc[-1] - bleu.iloc[-3]
    return ("**Trained long enough?** Dev BLEU over the last two of the validations, 400 steps: "
            + ", ".join(f"{name} {rise:+.1f}" for name, rise in told.items())
            + ". All models have the same budget of steps; where a rise is larger than the gap to "
              "a neighbour, longer training might turn the two round.")


def _released(runs: dict) -> str:
    """What the released code's estimate would have one believe."""
    values = {NAMES[m]: runs[m].log_likelihood["released"].mean
              for m in ("tr_s", "ga_b", "fl_s")}
    ahead = [name for name, value in values.items() if value > values[NAMES["tr_s"]]]
    told = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    verdict = (f"puts {' and '.join(ahead)} ahead of Tr-S; "
               f"the strict and the paper accounting put Tr-S first"
               if ahead else "leaves Tr-S ahead, but by far less")
    return f"**The released code's estimate** ({told}) {verdict}."


def _paired(one: str, other: str) -> tuple[float, float]:
    """Difference of strict LL in nats per token, and its standard error over sentences."""
    a, b = (RunFolder("multi30k_de_en", "mini", m).read_sentences() for m in (one, other))
    (first, tokens), (second, _) = (likelihood_terms(frame, "strict") for frame in (a, b))
    return ratio_of_sums(first - second, tokens)


def findings() -> str:
    """Whether the paper's findings hold here."""
    places = [("multi30k_de_en", "mini"), ("toy", "smoke")]
    return (f"{lib_findings.overview(places)}\n\n<details>\n<summary>The numbers behind each "
            f"verdict</summary>\n\n{lib_findings.paragraph(places)}\n\n</details>")


def audit() -> str:
    """What the audit of the likelihood found, on the toy corpus and on Multi30k."""
    tables = {place: outputs_root() / "tables" / f"likelihood_audit_{place}.csv"
              for place in ("toy_smoke", "multi30k_de_en_mini")}
    found = {place: pd.read_csv(path) for place, path in tables.items() if path.exists()}
    return "\n\n".join(_audited(place, table) for place, table in found.items()) or _table([])


def _audited(place: str, table: pd.DataFrame) -> str:
    """One data set's audit in words: where each family stands, how sure that is, what moves it."""
    best = table.loc[table.groupby("family")["best"].idxmax()].sort_values("best", ascending=False)
    told = ", ".join(f"{NAMES[row.model]} {row.best:.3f} ± {row.best_error:.3f}"
                     for row in best.itertuples())
    known = "truth" in table and table["truth"].notna().any()
    truth = f" log p* of the references is {table['truth'].iloc[0]:.3f}." if known else ""
    latent = table[table["elbo"].notna()]
    alone = latent["released"] - latent["paper_mean"]
    audited = latent[latent["audited"] > 0]
    sure = ""
    if len(audited):
        sure = (f" Annealed importance sampling on {audited['audited'].min()} sentences a model "
                f"adds {audited['annealing_adds'].min():+.3f} to "
                f"{audited['annealing_adds'].max():+.3f} to the importance-weighted bound; on "
                "sentences that the models wrote themselves, bidirectional Monte Carlo holds the "
                f"truth within {audited['gap'].max():.3f} (standard error "
                f"{audited.loc[audited['gap'].idxmax(), 'gap_error']:.3f}) at most.")
    else:
        sure = " No annealing was run here: the latent models' numbers are lower bounds."
    return (f"**{place.replace('_', ' ')}.** {verdict(table)} Strict log-likelihood of the best "
            f"model of each family, nats per token: {told}.{truth}{sure} The released estimator "
            f"alone, all else counted alike, moves the latent models by {alone.min():+.3f} to "
            f"{alone.max():+.3f}.")


def search() -> str:
    """How well LL and BLEU rank models alike, with search and with minimum Bayes risk."""
    told = []
    for dataset, scale in (("toy", "smoke"), ("multi30k_de_en", "mini")):
        path = outputs_root() / "tables" / f"decoders_{dataset}_{scale}_strict.csv"
        if not path.exists():
            continue
        table = pd.read_csv(path).query("scope == 'all' and n > 3")  # three points prove nothing
        for data in ("raw", "distilled"):
            found = {row.decoder: row for row in table.query("train_data == @data").itertuples()}
            if len(found) == 2:
                told.append(f"- {dataset} {scale}, {_counted(dataset, scale, data)}. " + "; ".join(
                    f"{name}: Spearman's rho {row.spearman:+.2f} [{row.spearman_low:+.2f}, "
                    f"{row.spearman_high:+.2f}], p = {row.spearman_p:.2g}, Pearson's r "
                    f"{row.pearson:+.2f} [{row.pearson_low:+.2f}, {row.pearson_high:+.2f}]"
                    for name, row in (("Each run's own decoding", found["headline"]),
                                      ("minimum Bayes risk", found["mbr"]))) + ".")
    return "\n".join(told) or _table([])


def _counted(dataset: str, scale: str, train_data: str) -> str:
    """How many models were trained on what, and which of them with several seeds."""
    runs = [(f.model, f.seed) for f in find_runs(dataset, scale)
            if f.train_data == train_data]
    models = dict.fromkeys(sorted({model for model, _ in runs}, key=MODELS.index))
    seeds = {model: sum(model == other for other, _ in runs) for model in models}
    several = [f"{count} seeds of {NAMES[model]}" for model, count in seeds.items() if count > 1]
    return (f"{len(models)} models trained on {train_data} text, "
            + (f"{', '.join(several)}, one of the others" if several else "one seed each"))


def sizes() -> str:
    """Parameters at paper scale."""
    path = outputs_root() / "tables" / "model_sizes.csv"
    if not path.exists():
        return _table([])
    table = pd.read_csv(path).query("scale == 'paper' and corpus == 'wmt'")
    return _table([{
        "model": NAMES[row.model], "ours": f"{row.parameters / 1e6:.1f}M",
        "published": "-" if pd.isna(row.published) else f"{row.published / 1e6:.0f}M",
        "ratio": "-" if pd.isna(row.published) else f"{row.parameters / row.published:.2f}",
    } for row in table.itertuples()])


def bench() -> str:
    """Training speed and memory."""
    folder = outputs_root() / "bench"
    if not (folder / "training.csv").exists():
        return _table([])
    speed, memory = (pd.read_csv(folder / f"{name}.csv") for name in ("training", "memory"))
    rows = [{"model": NAMES.get(row.model, row.model),
             "tokens a CPU-second": f"{row.tokens_per_cpu_second:,.0f}",
             "of the matrix rate": f"{row.share:.0%} ({row.share_low:.0%} to {row.share_high:.0%})",
             "against torch.nn.Transformer": f"{row.vs_plain:.2f}"}
            for row in speed.itertuples()]
    rate = speed["matrix_flops_per_cpu_second"].median() / 1e9
    peaks = memory.loc[memory.groupby("scale")["peak_gib"].idxmax()]
    told = "; ".join(f"{row.scale} at most {row.peak_gib:.1f} GiB ({NAMES[row.model]}, "
                     f"{row.batch_tokens:,} tokens a batch)" for row in peaks.itertuples())
    return (f"Machine: {speed['machine'].iloc[0]}. {speed['precision'].iloc[0]} products, "
            f"{speed['threads'].iloc[0]} threads; matrix rate {rate:.0f} GFLOP a CPU-second.\n\n"
            f"{_table(rows)}\n\nPeak memory of a training step: {told}.")


def likelihood() -> str:
    """Speed of the importance-weighted bound."""
    path = outputs_root() / "bench" / "likelihood.csv"
    if not path.exists():
        return _table([])
    speed = pd.read_csv(path)
    rows = [{"model": f"{NAMES[row.model]}, {row.scale}", "K": f"{row.samples:,}",
             "threads": row.threads,
             "sentences a CPU-second": f"{row.sentences_per_cpu_second:.3g}",
             "sentences a second": f"{row.sentences_per_second:.3g}",
             "of the matrix rate": f"{row.share:.0%} ({row.share_low:.0%} to {row.share_high:.0%})"}
            for row in speed.itertuples()]
    rate = speed["matrix_flops_per_cpu_second"].median() / 1e9
    return (f"Machine: {speed['machine'].iloc[0]}. {speed['precision'].iloc[0]} products; matrix "
            f"rate {rate:.0f} GFLOP a CPU-second.\n\n{_table(rows)}\n\n"
            f"{_other_likelihoods(speed)}{_whole_passes()}")


def _whole_passes() -> str:
    """What the bound took over the whole Multi30k test set, of the runs that recorded it; and with
    Fl-S's random weights over as many sentences.
    """
    told = []
    if (bench := outputs_root() / "bench" / "likelihood_whole.csv").exists():
        told = [f"{NAMES[row.model]} (random weights) {row.seconds / 60:.1f} "
                f"on {row.threads} threads" for row in pd.read_csv(bench).itertuples()]
    for _, metrics in (pair for data in ("raw", "distilled")
                       for pair in _runs("multi30k_de_en", "mini", data)):
        seconds = metrics.speed.get("likelihood_seconds")
        if seconds and metrics.log_likelihood["strict"].samples == 1000:
            threads = metrics.speed["threads"]
            told.append(f"{NAMES[metrics.model]} ({metrics.train_data}) {seconds / 60:.1f} "
                        f"on {threads} thread{'s' * (threads > 1)}")
    return "" if not told else (
        "\n\nThe whole pass over 1,000 sentences of Multi30k at K = 1,000, mini, in minutes "
        f"(on one thread: while the other core was at work): {', '.join(told)}.")


def _other_likelihoods(speed: pd.DataFrame) -> str:
    """One thread of ours against one of another project's, as timed and by matrix rate."""
    told = []
    for row in pd.read_csv(ROOT / "benchmarks" / "other_likelihoods.csv", comment="#").itertuples():
        own = speed.query("model == @row.ours and scale == @row.scale and samples == @row.samples "
                          "and threads == 1").iloc[0]
        rate = own["matrix_flops_per_cpu_second"] / 1e9
        times = own["sentences_per_cpu_second"] / row.sentences_per_second
        told.append(f"{row.system}'s own code did {row.sentences_per_second:g} sentences a second "
                    f"at K = {row.samples} on one thread of a machine whose matrix rate is "
                    f"{row.matrix_gflops:g} GFLOP a second ([benchmarks/other_likelihoods.csv]"
                    "(benchmarks/other_likelihoods.csv)): ours does "
                    f"{times:.1f} times that on one thread of this slower one, "
                    f"{times * row.matrix_gflops / rate:.1f} times at equal matrix rates.")
    return " ".join(told)


def decoding() -> str:
    """Decoding speed: the paper's Table 4 with random weights, beside CTranslate2."""
    table = bench_table()
    if table is None:
        return _table([])
    names = {"ctranslate2": "CTranslate2", **NAMES}
    own = next(name for name in table if name.startswith("vs ") and "beam" in name)
    rows = [{"system": f"{names[row['system']]} {row['setting']}", "weights": row["weights"],
             "batch 1": f"{row['sentences/s, batch 1']:.1f}",
             "batch 32": f"{row['sentences/s, batch 32']:.1f}",
             f"against {own.removeprefix('vs ')}": f"{row[own]:.2f}",
             "against CTranslate2, fp32": "-" if pd.isna(row["vs CTranslate2"]) else
             f"{row['vs CTranslate2']:.2f}",
             "the paper's, against Tr-B": "-" if pd.isna(row["paper"]) else f"{row['paper']:.1f}"}
            for _, row in table.iterrows()]
    machine = pd.read_csv(outputs_root() / "bench" / "decoding.csv")["machine"].iloc[0]
    return (f"Machine: {machine}, one thread. Sentences a second alone and in batches of 32; "
            f"ratios at batch size 1.\n\n{_table(rows)}\n\n{_bits()}")


def others() -> str:
    """Decoding speed beside other projects' systems, through a yardstick that both share."""
    table = other_systems()
    if table is None:
        return _table([])
    return _table([{
        "other system": row["other system"], "ours": row["ours"], "batch": row["batch"],
        **{name: f"{row[name]:.2f}" for name in ("theirs / CTranslate2", "ours / CTranslate2")},
        "times as fast": f"{row['times as fast']:.1f}",
        "by matrix rate": f"{row['by matrix rate']:.1f}",
        "aim": "-" if pd.isna(row["goal"]) else f"{row['goal']:g}"} for _, row in table.iterrows()])


def _bits() -> str:
    """What fewer bits a weight cost in BLEU, of the trained runs that were there."""
    path = outputs_root() / "bench" / "weights.csv"
    if not path.exists() or path.stat().st_size < 10:
        return ""
    told = [f"{row.dataset} {NAMES[row.model]} {row.setting} "
            f"{interval(row.delta, row.delta_low, row.delta_high, plus=True)}"
            for row in pd.read_csv(path).query("weights == 'int8'").itertuples()]
    return (f"BLEU with int8 weights minus BLEU with fp32 weights, 95% intervals over paired "
            f"resamples of the test sentences: {', '.join(told)}.")


BLOCKS: dict[str, Callable[[], str]] = {"answer": answer, "multi30k": multi30k, "reading": reading,
                                        "audit": audit, "search": search,
                                        "findings": findings,
                                        "sizes": sizes, "bench": bench,
                                        "likelihood": likelihood, "decoding": decoding,
                                        "others": others}


def fill(text: str) -> str:
    """The README's text with every block made anew."""
    for name, block in BLOCKS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        made = f"{begin}\n{block()}\n{end}"
        text, count = pattern.subn(lambda _, made=made: made, text)
        if count != 1:
            raise SystemExit(f"README.md must hold one block {begin} ... {end}, found {count}")
    return text


def main(path: Path = README) -> int:
    """Fill, or with --check only compare."""
    before = path.read_text(encoding="utf-8")
    after = fill(before)
    if "--check" in sys.argv:
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
