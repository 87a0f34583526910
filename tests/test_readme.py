"""The README and its pages say only what committed files show."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from analysis import published
from analysis.kinds import KINDS, PRIORS, RAW_DISTILLED
from analysis.significance import ORDERS, concordance
from lib.config import MODELS, SCALES, datasets
from lib.paths import NOTEBOOKS, ROOT

PAGES = {name: (ROOT / name).read_text(encoding="utf-8")
         for name in ("README.md", "benchmarks/README.md", "docs/departures.md")}
README = " ".join(PAGES["README.md"].split())  # however its lines are broken
TABLES = ROOT / "outputs" / "tables"


def test_every_table_is_what_the_committed_results_give():
    done = subprocess.run([sys.executable, "scripts/fill_readme.py", "--check"], cwd=ROOT,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        "results changed: run `python scripts/fill_readme.py`\n" + done.stderr)


def test_the_readme_is_read_to_its_end():
    assert PAGES["README.md"].count("\n") <= 170


@pytest.mark.parametrize("name", PAGES)
def test_every_link_and_named_file_exists(name):
    named = re.findall(r"\]\((?!http|#)([^)#]+)\)", PAGES[name])
    missing = [link for link in named if not (ROOT / name).parent.joinpath(link).exists()]
    assert not missing


def test_every_papermill_line_names_what_there_is():
    lines = re.findall(r"papermill notebooks/(\S+) (\S+)((?: -p \w+ \S+)*)", README)
    assert lines
    known = {"model": MODELS, "scale": SCALES, "dataset": datasets()}
    for notebook, output, rest in lines:
        assert (NOTEBOOKS / notebook).exists()
        assert output.endswith(".ipynb")
        for name, value in re.findall(r"-p (\w+) ([\w.]+)", rest):
            assert name not in known or value in known[name], (name, value)


# ---- what is claimed by hand ----

def claimed(pattern: str) -> list[int]:
    """The numbers of a claim; a README that no longer makes it has to change this test as well."""
    found = re.search(pattern, README)
    assert found, f"README.md no longer says: {pattern}"
    return [int(number.replace(",", "")) for number in found.groups()]


def counts(place: str, accounting: str = "strict") -> pd.DataFrame:
    """Pairs that agree, disagree, are undecided, by kind."""
    table = concordance(pd.read_csv(TABLES / f"significance_{place}.csv"))
    return table[table["accounting"] == accounting].groupby("kind")[
        ["agree", "disagree", "undecided"]].sum()


def test_the_answer_between_models_is_what_the_pairs_say():
    long, mini = counts("multi30k_de_en_long"), counts("multi30k_de_en_mini")
    agree, disagree, undecided = long.sum()
    assert claimed(r"in (\d+) of (\d+) pairs of seven models; none disagrees, (\d+) are") == [
        agree, agree + undecided, undecided]
    assert disagree == 0
    agree, disagree, undecided = mini.loc[KINDS[0]]
    assert claimed(r"all (\d+) pairs of a Transformer") == [agree]
    assert (disagree, undecided) == (0, 0)
    decided, of = claimed(r"(\d+) of (\d+) pairs are decided at `mini`")
    assert (decided, of) == (mini.loc[PRIORS].iloc[:2].sum(), mini.loc[PRIORS].sum())
    agree, of, disagree = claimed(r"at `mini` (\d+) of the (\d+) pairs agree by it, and (\d+) dis")
    released = counts("multi30k_de_en_mini", "released").loc[KINDS[0]]
    assert (agree, disagree, of) == (*released.iloc[:2], released.sum())
    agree, disagree, undecided = mini.loc["factorised, latent"]
    assert claimed(r"At `mini` (\d+) of (\d+) pairs agree and (\d+) disagree: CTC") == [
        agree, agree + disagree + undecided, disagree]
    apart = pd.read_csv(TABLES / "significance_multi30k_de_en_mini.csv").query(
        "accounting == 'strict' and kind == 'factorised, latent' and order == 'disagree'")
    assert set(zip(apart["second"], apart["train_data"], strict=True)) == {
        ("ct_b", "raw"), ("ct_b", "distilled"), ("da_b", "distilled")}
    agree, disagree, undecided = mini.loc[RAW_DISTILLED]
    assert disagree > agree + undecided  # "mostly the other way round"


def phase(places: tuple[str, ...], name: str) -> list[int]:
    """Pairs of checkpoints that agree, that disagree, and all of them."""
    table = pd.concat([pd.read_csv(TABLES / f"checkpoint_pairs_{place}.csv") for place in places])
    agree, undecided, disagree = (int(table[f"{name}_{order}"].sum()) for order in ORDERS)
    return [agree, disagree, agree + undecided + disagree]


def test_within_a_training_the_answer_turns_at_the_best_likelihood():
    multi30k = "multi30k_de_en_long", "multi30k_de_en_mini"
    agree, disagree, of = phase(multi30k, "rising")
    assert claimed(r"prefer the same one in ([\d,]+) of ([\d,]+) pairs, and never") == [agree, of]
    assert disagree == 0
    agree, disagree, of = phase(multi30k, "falling")
    assert claimed(r"different ones in ([\d,]+) of ([\d,]+) pairs and never the same") == [
        disagree, of]
    assert agree == 0
    assert claimed(r"On toy (\d+) pairs agree before that step and (\d+) disagree, (\d+) and "
                   r"(\d+) after it") == [*phase(("toy_small",), "rising")[:2],
                                   *phase(("toy_small",), "falling")[:2]]
    costs = pd.concat([pd.read_csv(path) for path in TABLES.glob("two_checkpoints_*.csv")
                       if not path.stem.endswith("_smoke")])
    [most] = re.findall(r"by dev LL costs up to ([\d.]+) test BLEU", README)
    assert float(most) == round(-costs["bleu_delta"].min(), 1)


def test_no_pair_of_the_toy_models_trained_from_scratch_disagrees():
    pairs = pd.read_csv(TABLES / "significance_toy_small.csv").query("accounting == 'strict'")
    assert claimed(r"one to three seeds\), (\d+) of (\d+) pairs agree, none disagrees") == [
        (pairs["order"] == "agree").sum(), len(pairs)]
    priors = pairs[pairs["kind"] == PRIORS].iloc[0]
    assert re.findall(r"Fl-S has ([\d.]+) nats a token and ([\d.]+) BLEU more than Ga-B, with "
                      r"three seeds each: (\d+) would", README) == [(
        f"{-priors['ll_delta']:.2f}", f"{-priors['bleu_delta']:.1f}",
        f"{max(priors['ll_seeds'], priors['bleu_seeds']):.0f}")]
    assert (priors["first"], priors["second"], priors["order"]) == ("ga_b", "fl_s", "undecided")
    assert priors["first_seeds"] == priors["second_seeds"] == 3
    assert len(pairs) > 10 and not (pairs["order"] == "disagree").any()
    assert set(pairs["train_data"]) == {"raw"}
    assert {*pairs["first_seeds"], *pairs["second_seeds"]} <= {1, 2, 3}


def test_the_flow_that_was_cut_off_is_compared_at_its_last_step():
    rows = {model: pd.concat([pd.read_csv(path).query("step == 3000") for path in sorted((
        ROOT / f"outputs/runs/multi30k_de_en/long/{model}/raw").glob("s*/history.csv"))])
        for model in ("fl_s", "ga_b")}
    [numbers] = re.findall(r"(−[\d.]+) against (−[\d.]+) on average, and no better dev BLEU, "
                           r"([\d.]+) against ([\d.]+)",
                           " ".join(PAGES["docs/departures.md"].split()))
    assert [float(number.replace("−", "-")) for number in numbers] == [
        round(rows[model][name].mean(), digits) for name, digits in (("dev_ll", 2), ("dev_bleu", 1))
        for model in ("fl_s", "ga_b")]
    assert rows["fl_s"]["dev_ll"].min() > rows["ga_b"]["dev_ll"].max()


@pytest.mark.parametrize("place", ["toy_small", "multi30k_de_en_long"])
def test_what_was_trained_from_scratch_converged_or_reached_the_limit(place):
    trained = pd.read_csv(TABLES / f"training_{place}.csv").query("ended != 'stopped'")
    assert (trained["ended"].eq("converged") | trained["steps"].eq(8000)).all()
    assert trained["start"].isna().all()


def test_the_papers_own_pairs_are_what_its_table_says():
    table = published.agreement().set_index(["corpus", "train_data", "kind"])
    table = table.sort_index()[["agree", "pairs"]]
    raw = claimed(r"WMT'14 En-De (\d+) of (\d+) pairs .* agree, and (\d+) of (\d+) of a Gaussian")
    distilled = claimed(r"on distilled text (\d+) of (\d+) and (\d+) of (\d+)")
    for data, numbers in (("raw", raw), ("distilled", distilled)):
        found = table.loc[("WMT'14 En-De", data)].loc[[KINDS[0], PRIORS]]
        assert numbers == found.to_numpy().flatten().tolist()


def test_the_effect_of_each_factor_is_what_the_controlled_pairs_say():
    long, mini = (pd.read_csv(TABLES / f"objective_multi30k_de_en_{scale}.csv").set_index(
        ["train_data", "first", "second"]) for scale in ("long", "mini"))
    for table in (long, mini):
        assert "disagree" not in set(table.loc["raw"]["order"])  # "neither has been seen to part"
    found = re.search(r"to Da-B\) is worth ([\d.]+) nats a token and ([\d.]+) BLEU, .* one "
                      r"−([\d.]+) and ([\d.]+), .* \(Md-B to Tr-S\) ([\d.]+) and ([\d.]+): at "
                      r"`mini` that was ([\d.]+) and ([\d.]+) \(to Tr-B\)", README)
    rows = [long.loc["raw", "na_b", "da_b"], -long.loc["raw", "dp_b", "da_b"][["ll_delta"]],
            long.loc["raw", "dp_b", "da_b"], long.loc["raw", "md_b", "tr_s"],
            mini.loc["raw", "md_b", "tr_b"]]
    expected = [round(float(row[name]), digits) for row, names in zip(
        rows, (("ll_delta", "bleu_delta"), ("ll_delta",), ("bleu_delta",),
               ("ll_delta", "bleu_delta"), ("ll_delta", "bleu_delta")), strict=True)
        for name, digits in (("ll_delta", 2), ("bleu_delta", 1)) if name in names]
    assert [float(number) for number in found.groups()] == expected
    sums = mini.loc["distilled", "dp_b", "da_b"]  # "lowers LL and raises BLEU"
    assert sums["ll_high"] < 0 < sums["bleu_low"]
    orders = mini.loc["distilled", "md_b", "tr_b"]
    [less] = re.findall(r"Md-B has Tr-B's LL with ([\d.]+) BLEU less", README)
    assert float(less) == round(orders["bleu_delta"], 1) and orders["bleu_low"] > 0
    assert orders["ll_low"] < 0 < orders["ll_high"]


def test_the_speed_on_a_gpu_is_what_the_benchmark_measured():
    steps = pd.read_csv(ROOT / "outputs/bench/gpu_training.csv")
    fastest = steps.query("device == 'NVIDIA H200' and model == 'tr_s' and scale == 'paper'")
    assert [round(rate / 1e6, 2) for rate in fastest["tokens_per_second"]] == [
        float(rate) for rate in re.findall(r"Tr-S trains on ([\d.]+) million", README)]
    steps = steps.query("scale == 'mini'")
    times = steps.set_index(["variant", "model"])["step_ms"]
    ratios = times["eager"] / times["graphs"]
    assert claimed(r"graphed step is (\d+) to (\d+) times") == [
        int(ratios.min()), round(ratios.max())]
    alone = pd.read_csv(ROOT / "outputs/bench/gpu_protocol.csv").set_index(["system", "setting"])
    found = re.search(r"Ga-B at k = 1 translates ([\d.]+) times .* beam, Fl-B ([\d.]+)\.", README)
    expected = alone["vs Tr-B beam4"][[("ga_b", "k1"), ("fl_b", "k1")]]
    assert [float(number) for number in found.groups()] == expected.round(1).tolist()
