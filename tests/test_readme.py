"""The README and its pages say only what committed files show."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from analysis import published
from analysis.kinds import KINDS, PRIORS, RAW_DISTILLED
from analysis.significance import concordance
from lib.config import MODELS, SCALES, datasets
from lib.paths import NOTEBOOKS, ROOT

PAGES = {name: (ROOT / name).read_text(encoding="utf-8")
         for name in ("README.md", "benchmarks/README.md", "docs/departures.md")}
README = " ".join(PAGES["README.md"].split())  # however its lines are broken
PAIRS = ROOT / "outputs" / "tables" / "significance_multi30k_de_en_mini.csv"


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
    return [int(number) for number in found.groups()]


def test_the_answer_on_multi30k_is_what_the_pairs_say():
    counts = concordance(pd.read_csv(PAIRS)).groupby(["accounting", "kind"])[
        ["agree", "disagree", "undecided"]].sum()
    agree, disagree, undecided = counts.loc["strict", KINDS[0]]
    assert claimed(r"in all (\d+) pairs of a Transformer") == [agree]
    assert (disagree, undecided) == (0, 0)
    decided, of = claimed(r"undecided\.\*\* (\d+) of (\d+) pairs are decided")
    assert (decided, of) == (counts.loc["strict", PRIORS].iloc[:2].sum(),
                             counts.loc["strict", PRIORS].sum())
    agree, of, disagree = claimed(r"(\d+) of the (\d+) pairs agree by it, and (\d+) disagree")
    released = counts.loc["released", KINDS[0]]
    assert (agree, disagree, of) == (*released.iloc[:2], released.sum())
    agree, disagree, undecided = counts.loc["strict", "factorised, latent"]
    assert claimed(r"Of (\d+) pairs (\d+) agree and (\d+) disagree: CTC") == [
        agree + disagree + undecided, agree, disagree]
    agree, disagree, undecided = counts.loc["strict", RAW_DISTILLED]
    assert disagree > agree + undecided  # "mostly the other way round"


def test_no_pair_of_the_toy_models_trained_from_scratch_disagrees():
    pairs = pd.read_csv(PAIRS.with_name("significance_toy_small.csv"))
    pairs = pairs[(pairs["accounting"] == "strict") & (pairs["train_data"] == "raw")]
    assert claimed(r"one to three seeds\), (\d+) of (\d+) pairs agree, none disagrees") == [
        (pairs["order"] == "agree").sum(), len(pairs)]
    assert len(pairs) > 10 and not (pairs["order"] == "disagree").any()
    assert {*pairs["first_seeds"], *pairs["second_seeds"]} <= {1, 2, 3}
    trained = pd.read_csv(PAIRS.with_name("training_toy_small.csv"))
    assert (trained["ended"].eq("converged") | trained["steps"].eq(8000)).all()


def test_the_papers_own_pairs_are_what_its_table_says():
    table = published.agreement().set_index(["corpus", "train_data", "kind"])
    table = table.sort_index()[["agree", "pairs"]]
    raw = claimed(r"WMT'14 En-De (\d+) of (\d+) pairs .* agree, and (\d+) of (\d+) of a Gaussian")
    distilled = claimed(r"on distilled text (\d+) of (\d+) and (\d+) of (\d+)")
    for data, numbers in (("raw", raw), ("distilled", distilled)):
        found = table.loc[("WMT'14 En-De", data)].loc[[KINDS[0], PRIORS]]
        assert numbers == found.to_numpy().flatten().tolist()


def test_the_effect_of_each_factor_is_what_the_controlled_pairs_say():
    table = pd.read_csv(ROOT / "outputs/tables/objective_multi30k_de_en_mini.csv")
    raw = table[table["train_data"] == "raw"].set_index(["first", "second"])
    counted = raw[raw["factor"] != "z"]
    assert claimed(r"all (\d+) controlled pairs .* move both together") == [len(counted)]
    assert set(counted["order"]) == {"agree"}
    found = re.search(r"Md-B to Tr-B\) is worth ([\d.]+) nats a token and ([\d.]+) BLEU, CTC for "
                      r"independent tokens ([\d.]+) and ([\d.]+), autoregression for CTC ([\d.]+) "
                      r"and ([\d.]+)\.", README)
    ends = [("md_b", "tr_b"), ("na_b", "ct_b"), ("ct_b", "tr_b")]
    assert [float(number) for number in found.groups()] == [
        round(value, digits) for pair in ends for value, digits in
        ((raw["ll_delta"][pair], 2), (raw["bleu_delta"][pair], 1))]
    pairs = pd.read_csv(PAIRS).query("accounting == 'strict' and first_data == second_data == "
                                     "'raw' and first == 'ga_b' and second == 'ct_b'").iloc[0]
    found = re.search(r"Ct-B has ([\d.]+) BLEU more and ([\d.]+) nats less", README)
    assert [float(number) for number in found.groups()] == [
        round(-pairs["bleu_delta"], 1), round(pairs["ll_delta"], 2)]


def test_the_speed_on_a_gpu_is_what_the_benchmark_measured():
    steps = pd.read_csv(ROOT / "outputs/bench/gpu_training.csv").query("scale == 'mini'")
    times = steps.set_index(["variant", "model"])["step_ms"]
    ratios = times["eager"] / times["graphs"]
    assert claimed(r"graphed step is (\d+) to (\d+) times") == [
        int(ratios.min()), round(ratios.max())]
    alone = pd.read_csv(ROOT / "outputs/bench/gpu_protocol.csv").set_index(["system", "setting"])
    found = re.search(r"Ga-B at k = 1 translates ([\d.]+) times .* search, Fl-B ([\d.]+)", README)
    expected = alone["vs Tr-B beam4"][[("ga_b", "k1"), ("fl_b", "k1")]]
    assert [float(number) for number in found.groups()] == expected.round(1).tolist()
