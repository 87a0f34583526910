"""The tables of benchmarks/README.md, from what the benchmarks have written to outputs/bench/."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.speed_table import table4
from analysis.tables import interval, markdown
from lib.config import model_name
from lib.paths import ROOT, outputs_root
from lib.runs import find_runs

OTHERS = ROOT / "benchmarks" / "other_systems.csv"
NOTHING = "*(not measured yet)*"
NAMES = {"ctranslate2": "CTranslate2"}


def bench(name: str) -> pd.DataFrame | None:
    """What `make bench` wrote of that name, None where it hasn't run, or found no row."""
    path = outputs_root() / "bench" / f"{name}.csv"
    return pd.read_csv(path) if path.exists() and path.stat().st_size > 1 else None


def _share(row: tuple) -> str:
    return f"{row.share:.0%} ({row.share_low:.0%} to {row.share_high:.0%})"


def _machine(frame: pd.DataFrame) -> str:
    rate = frame["matrix_flops_per_cpu_second"].median() / 1e9
    return (f"Machine: {frame['machine'].iloc[0]}. {frame['precision'].iloc[0]} products; matrix "
            f"rate {rate:.0f} GFLOP a CPU-second.")


def training() -> str:
    """Training speed and memory."""
    speed, memory = bench("training"), bench("memory")
    if speed is None or memory is None:
        return NOTHING
    rows = [{"model": model_name(row.model), "threads": row.threads,
             "tokens a CPU-second": round(row.tokens_per_cpu_second),
             "of the matrix rate": _share(row), "against torch.nn.Transformer": row.vs_plain}
            for row in speed.itertuples()]
    peaks = memory.loc[memory.groupby("scale")["peak_gib"].idxmax()]
    return "\n\n".join([_machine(speed), markdown(pd.DataFrame(rows)), markdown(pd.DataFrame({
        "scale": peaks["scale"], "largest model": peaks["model"].map(model_name),
        "tokens a batch": peaks["batch_tokens"], "peak memory of a step (GiB)": peaks["peak_gib"],
    }), digits=1)])


def likelihood() -> str:
    """Speed of the importance-weighted bound, and the whole passes over Multi30k's test set."""
    speed = bench("likelihood")
    if speed is None:
        return NOTHING
    rows = [{"model": model, "K": row.samples,
             "threads": row.threads, "sentences a CPU-second": row.sentences_per_cpu_second,
             "sentences a second": row.sentences_per_second, "of the matrix rate": _share(row)}
            for model, row in zip(_sized(speed["model"], speed["scale"]), speed.itertuples(),
                                  strict=True)]
    other = pd.read_csv(ROOT / "benchmarks" / "other_likelihoods.csv", comment="#")
    return "\n\n".join([_machine(speed), markdown(pd.DataFrame(rows), digits=3),
                        *(_other_likelihood(row, speed) for row in other.itertuples()),
                        markdown(_whole_passes(), digits=1)])


def _other_likelihood(row: tuple, speed: pd.DataFrame) -> str:
    """One thread of ours against one of another project's, as timed and by matrix rate."""
    own = speed.query("model == @row.ours and scale == @row.scale and samples == @row.samples "
                      "and threads == 1").iloc[0]
    rate = own["matrix_flops_per_cpu_second"] / 1e9
    times = own["sentences_per_cpu_second"] / row.sentences_per_second
    return (f"{row.system}'s own code: {row.sentences_per_second:g} sentences a second at K = "
            f"{row.samples} on one thread of a machine with a matrix rate of "
            f"{row.matrix_gflops:g} GFLOP a second ([other_likelihoods.csv]"
            f"(other_likelihoods.csv)). Ours: {times:.1f} times that on one thread of this one, "
            f"{times * row.matrix_gflops / rate:.1f} times at equal matrix rates.")


def _whole_passes() -> pd.DataFrame:
    """Minutes of the bound over the whole Multi30k test set at K = 1,000, of first seeds."""
    rows = []
    if (known := bench("likelihood_whole")) is not None:
        rows = [(f"{model_name(row.model)}, random weights", row.threads, row.seconds / 60)
                for row in known.itertuples()]
    for run in find_runs("multi30k_de_en", "mini"):
        metrics = run.read_metrics()
        seconds = metrics.speed.get("likelihood_seconds") or 0
        if run.seed == 1 and metrics.log_likelihood["strict"].samples == 1000 and seconds > 0:
            rows.append((f"{model_name(run.model)}, {run.train_data}", metrics.speed["threads"],
                         seconds / 60))
    return pd.DataFrame(rows, columns=["Multi30k, 1,000 sentences, K = 1,000", "threads",
                                       "minutes"])


def decoding() -> str:
    """Decoding speed at the published sizes, beside CTranslate2 with the very same weights."""
    frame = bench("decoding")
    if frame is None:
        return NOTHING
    table = table4(frame, ("tr_s", "beam4"))
    own = next(name for name in table if name.startswith("vs ") and "beam" in name)
    shown = pd.DataFrame({
        "system": [f"{NAMES.get(row.system, model_name(row.system))} {row.setting}"
                   for row in table.itertuples()], "weights": table["weights"],
        **{f"batch {size}": table[f"sentences/s, batch {size}"] for size in (1, 32)},
        f"against {own.removeprefix('vs ')}": table[own],
        "against CTranslate2, fp32": table["vs CTranslate2"],
        "the paper's, against Tr-B": table["paper"]})
    return "\n\n".join([f"Machine: {frame['machine'].iloc[0]}, one thread.",
                        markdown(shown, digits={"batch 1": 1, "batch 32": 1}), _bits()])


def _bits() -> str:
    """What fewer bits a weight cost in BLEU, of the trained runs that were there."""
    if (known := bench("weights")) is None:
        return ""
    rows = known.query("weights == 'int8'")
    return markdown(pd.DataFrame({
        "run": [f"{row.dataset} {model_name(row.model)} {row.setting}" for row in
                rows.itertuples()],
        "BLEU with int8 weights minus that with fp32": [
            interval(row.delta, row.delta_low, row.delta_high, plus=True)
            for row in rows.itertuples()]}))


def others() -> str:
    """Decoding speed beside other projects' systems, through a yardstick that both share."""
    table = other_systems()
    return NOTHING if table is None else markdown(table)


def other_systems(speed: pd.DataFrame | None = None) -> pd.DataFrame | None:
    """Ours beside other projects' systems that do the same work, a row a system and batch size.

    Theirs were timed on another machine (other_systems.csv says which), so both are divided by the
    speed of the same yardstick on their own machine, CTranslate2's beam search in fp32: `theirs`,
    `ours`; `times as fast` is the ratio of the two, `goal` what it was meant to be. `by matrix
    rate`: the same with each machine's bf16 matrix products a second as the yardstick, ours from
    outputs/bench/likelihood.csv. The two differ where a machine's products outgrow the rest of it.

    `speed`: rows as `lib.evaluation.speed.speeds` gives them; by default those of `make bench`.
    None where that, or its yardstick, is missing.
    """
    speed = bench("decoding") if speed is None else speed
    if speed is None:
        return None
    timed = speed[speed["weights"].isin(["auto", "float32"])].set_index(
        ["system", "setting", "batch"])["sentences_per_second"]
    products = bench("likelihood")
    rate = np.nan if products is None else products.loc[
        products["threads"] == 1, "matrix_flops_per_cpu_second"].median() / 1e9
    rows = []
    for row in pd.read_csv(OTHERS, comment="#").itertuples():
        own = timed.get((row.ours, row.ours_setting, row.batch))
        yardstick = timed.get(("ctranslate2", "beam4", row.batch))
        if own is not None and yardstick is not None:
            theirs, ours = row.sentences_per_second / row.ctranslate2, own / yardstick
            rows.append({"other system": f"{row.system} {row.setting}",
                         "ours": f"{model_name(row.ours)} {row.ours_setting}",
                         "batch": row.batch, "theirs / CTranslate2": theirs,
                         "ours / CTranslate2": ours, "times as fast": ours / theirs,
                         "by matrix rate": own / rate / (row.sentences_per_second
                                                         / row.matrix_gflops),
                         "goal": row.goal})
    return pd.DataFrame(rows) if rows else None


def gpu() -> str:
    """What `make gpu` measured: training steps; sentences one at a time, as the paper times; whole
    sets; and the importance-weighted bound.
    """
    steps, alone = bench("gpu_training"), bench("gpu_protocol")
    if steps is None or alone is None:
        return NOTHING
    steps = steps.dropna(subset="step_ms")
    shown = pd.DataFrame({
        "card": steps["device"].map(_card), "model": _sized(steps["model"], steps["scale"]),
        "step": steps["variant"].map({"graphs": "one CUDA graph"}).fillna(steps["variant"]),
        "positions a step": steps["positions"], "ms a step": steps["step_ms"],
        "target tokens a second": steps["tokens_per_second"].astype(int),
        "of the matrix rate": [f"{share:.2%}" for share in steps["share"]]})
    ratios = pd.DataFrame({
        "card": alone["device"].map(_card),
        "system": [f"{model_name(row.system)} {row.setting}" for row in alone.itertuples()],
        "sentences a second": alone["sentences/s, batch 1"].round().astype(int),
        "against Tr-B beam4": [interval(*row) for row in alone[[
            f"vs Tr-B beam4{end}" for end in ("", "_low", "_high")]].itertuples(index=False)],
        "the paper's": alone["paper"]})
    rates = ", ".join(f"{_card(card)} {rate:.0f}" for card, rate in
                      steps.groupby("device")["matrix_tflops"].median().items())
    return "\n\n".join([f"torch {steps['torch'].iloc[0]}, {steps['precision'].iloc[0]}; matrix "
                        f"rate, TFLOP a second: {rates}.",
                        markdown(shown, digits={"ms a step": 1}), markdown(ratios, digits=2),
                        *_gpu_sets()])


def in_batches(made: pd.DataFrame) -> pd.DataFrame:
    """Sentences a second in batches of one length through CUDA graphs, and against Tr-B's beam
    search in batches of the same size.
    """
    batched = made.query("way == 'graphs' and batch > 1")
    rates = batched.pivot_table(index=["device", "system", "setting"], columns="batch",
                                values="sentences_per_second", sort=False)
    beams = rates.xs(("tr_b", "beam4"), level=["system", "setting"]).reindex(
        rates.index.get_level_values("device")).set_axis(rates.index)
    ratios = rates / beams
    return pd.DataFrame({
        "card": [_card(device) for device, _, _ in rates.index],
        "system": [f"{model_name(system)} {setting}" for _, system, setting in rates.index],
        **{name: values for size in rates for name, values in (
            (f"sentences a second, batch {size}", rates[size].round().astype("Int64").tolist()),
            (f"against Tr-B beam4, batch {size}", ratios[size].tolist()))}})


def _gpu_sets() -> list[str]:
    """Batches, whole test and training sets, and likelihoods, where they were measured."""
    made, bounds = bench("gpu_decoding"), bench("gpu_likelihood")
    parts = []
    if made is not None and (made["batch"][made["way"] == "graphs"] > 1).any():
        parts.append(markdown(in_batches(made), digits=1))
    if made is not None and "seconds" in made:
        sets = made.dropna(subset="seconds")
        parts.append(markdown(pd.DataFrame({
            "card": sets["device"].map(_card),
            "system": [f"{model_name(row.system)} {row.setting}" for row in sets.itertuples()],
            "work": sets["way"].map({"bulk": "test set"}).fillna(sets["way"]),
            "sentences": sets["batch"], "seconds": sets["seconds"],
            "sentences a second": sets["sentences_per_second"].astype(int),
            "peak GiB": sets["peak_mib"] / 1024}), digits=1))
    if bounds is not None:
        parts.append(markdown(pd.DataFrame({
            "card": bounds["device"].map(_card), "model": _sized(bounds["system"], bounds["scale"]),
            "K": bounds["samples"], "sentences timed": bounds["sentences"],
            "seconds for 1,000": bounds["seconds_for_1000"]}), digits=1))
    return parts


def _card(device: str) -> str:
    return device.removeprefix("NVIDIA ").split()[0]


def _sized(models: pd.Series, scales: pd.Series) -> list[str]:
    return [f"{model_name(model)}, {scale}" for model, scale in zip(models, scales, strict=True)]


BLOCKS: dict[str, Callable[[], str]] = {"training": training, "likelihood": likelihood,
                                        "decoding": decoding, "others": others, "gpu": gpu}
