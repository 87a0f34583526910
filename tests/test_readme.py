"""The README and its pages say only what committed files show."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from analysis import findings, published
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
    assert claimed(r"Of all (\d+) pairs of seven models at `long`, LL and BLEU prefer the same "
                   r"model in (\d+), different ones in none, and (\d+) are undecided") == [
        agree + undecided, agree, undecided]
    assert disagree == 0
    agree, disagree, undecided = mini.loc[KINDS[0]]
    assert claimed(r"In all (\d+) pairs at `mini`") == [agree]
    assert (disagree, undecided) == (0, 0)
    released = counts("multi30k_de_en_mini", "released").loc[KINDS[0]]
    assert claimed(r"released code (\d+) of those (\d+) pairs disagree and (\d+) agree") == [
        released["disagree"], released.sum(), released["agree"]]
    decided, of = claimed(r"(\d+) of (\d+) pairs are decided at `mini`")
    assert (decided, of) == (mini.loc[PRIORS].iloc[:2].sum(), mini.loc[PRIORS].sum())
    agree, disagree, undecided = mini.loc["factorised, latent"]
    assert claimed(r"At `mini` (\d+) of (\d+) pairs agree and (\d+) disagree: CTC") == [
        agree, agree + disagree + undecided, disagree]
    apart = pd.read_csv(TABLES / "significance_multi30k_de_en_mini.csv").query(
        "accounting == 'strict' and kind == 'factorised, latent' and order == 'disagree'")
    assert set(zip(apart["second"], apart["train_data"], strict=True)) == {
        ("ct_b", "raw"), ("ct_b", "distilled"), ("da_b", "distilled")}
    agree, disagree, undecided = mini.loc[RAW_DISTILLED]
    assert disagree > agree + undecided  # "mostly the other way round"


def test_refinement_is_what_the_evidence_says():
    [found] = [verdict for verdict in findings.verdicts(("multi30k_de_en", "mini"))
               if verdict.finding.number == 4]
    raw, distilled = (part for part in found.evidence if part.quantity.startswith("mean gain"))
    assert (raw.train_data, raw.answer, distilled.answer) == ("raw", "undecided", "yes")
    assert re.findall(r"Gaussian priors ([\d.]+) BLEU more on dist", README) == [
        f"{distilled.value:.1f}"]


def phase(places: tuple[str, ...], name: str) -> list[int]:
    """Pairs of checkpoints that agree, that disagree, and all of them."""
    table = pd.concat([pd.read_csv(TABLES / f"checkpoint_pairs_{place}.csv") for place in places])
    agree, undecided, disagree = (int(table[f"{name}_{order}"].sum()) for order in ORDERS)
    return [agree, disagree, agree + undecided + disagree]


def test_within_a_training_the_answer_turns_at_the_best_likelihood():
    multi30k = "multi30k_de_en_long", "multi30k_de_en_mini"
    trainings = [pd.read_csv(TABLES / f"checkpoint_pairs_{place}.csv") for place in multi30k]
    agree, disagree, of = phase(multi30k, "rising")
    assert claimed(r"the same one in ([\d,]+) of ([\d,]+) pairs \((\d+) trainings\), never") == [
        agree, of, sum(map(len, trainings))]
    assert disagree == 0
    agree, disagree, of = phase(multi30k, "falling")
    distilled = pd.concat(trainings).query("train_data == 'distilled'")["falling_disagree"].sum()
    assert claimed(r"([\d,]+) of ([\d,]+) pairs disagree, (\d+) of them on distilled text, "
                   r"none agrees") == [disagree, of, distilled]
    assert agree == 0
    assert claimed(r"on toy (\d+) agree, (\d+) disagree") == phase(("toy_small",), "rising")[:2]


def calibrated(place: str) -> pd.DataFrame:
    """LL and BLEU, as trained and at the temperature, by (model, train_data, seed, by)."""
    return pd.read_csv(TABLES / f"calibration_{place}.csv").set_index(
        ["model", "train_data", "seed", "by"])[["ll", "ll_calibrated", "bleu"]]


def test_a_temperature_turns_what_overfitting_had_turned():
    table = calibrated("multi30k_de_en_mini")
    second = table.query("by == 'll' and train_data == 'distilled'").droplevel("by")
    first = table.query("by == 'bleu'").droplevel("by").loc[second.index]
    differences = first - second  # of the best by dev BLEU above the best by dev LL
    assert (differences["bleu"] > 0).all() and (differences["ll"] < 0).all()
    assert claimed(r"Of (\d+) trainings on distilled text whose LL preferred the worse translator, "
                   r"\[all (\d+)\]") == [len(first), (differences["ll_calibrated"] > 0).sum()]
    deep = "tr_d", "distilled", 1
    [numbers] = re.findall(r"Tr-D: LL (−[\d.]+) against (−[\d.]+) becomes (−[\d.]+) against "
                           r"(−[\d.]+), where the latter has ([\d.]+) BLEU", README)
    assert [float(number.replace("−", "-")) for number in numbers[:4]] == [
        round(of.loc[deep, name], 2) for name in ("ll", "ll_calibrated") for of in (second, first)]
    assert float(numbers[4]) == round(differences.loc[deep, "bleu"], 1)
    toy = calibrated("toy_small").loc["na_b", "raw", 4]
    assert toy.loc["ll", "ll_calibrated"] > toy.loc["bleu", "ll_calibrated"]
    [falls] = re.findall(r"Na-B's LL rises while its BLEU falls by ([\d.]+)", README)
    assert float(falls) == round(toy.loc["bleu", "bleu"] - toy.loc["ll", "bleu"], 1)


def test_no_pair_of_the_toy_models_trained_from_scratch_disagrees():
    pairs = pd.read_csv(TABLES / "significance_toy_small.csv").query("accounting == 'strict'")
    assert claimed(r"On toy (\d+) of (\d+) pairs of any two models agree, none disagrees") == [
        (pairs["order"] == "agree").sum(), len(pairs)]
    priors = pairs[pairs["kind"] == PRIORS].iloc[0]
    assert re.findall(r"Fl-S has ([\d.]+) nats and ([\d.]+) BLEU more than Ga-B, three seeds each; "
                      r"(\d+) seeds and ([\d,]+) test sentences would", README) == [(
        f"{-priors['ll_delta']:.2f}", f"{-priors['bleu_delta']:.1f}",
        f"{max(priors['ll_seeds'], priors['bleu_seeds']):.0f}",
        f"{priors[['ll_sentences', 'bleu_sentences']].max():,.0f}")]
    assert (priors["first"], priors["second"], priors["order"]) == ("ga_b", "fl_s", "undecided")
    assert priors["first_seeds"] == priors["second_seeds"] == 3
    assert len(pairs) > 10 and not (pairs["order"] == "disagree").any()
    assert set(pairs["train_data"]) == {"raw"}
    assert {*pairs["first_seeds"], *pairs["second_seeds"]} <= {1, 2, 3, 4}


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
        assert "disagree" not in set(table.loc["raw"]["order"])  # "in no pair on raw text"
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
    found = re.search(r"Ga-B at k = 1 is ([\d.]+) times .* beam, Fl-B ([\d.]+) times", README)
    expected = alone["vs Tr-B beam4"][[("ga_b", "k1"), ("fl_b", "k1")]]
    assert [float(number) for number in found.groups()] == expected.round(1).tolist()
