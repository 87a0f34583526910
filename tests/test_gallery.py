"""The pages of results: everything there is, in the order of the questions, with a caption."""

import re
from pathlib import Path

import pytest
from made_up import made_up_run
from PIL import Image

from analysis import gallery
from lib.paths import NOTEBOOKS, ROOT

OUTPUTS = ROOT / "outputs"


@pytest.mark.parametrize(("stem", "ending", "notebook"), [
    ("table1_toy_smoke_strict", "(the paper's Table 1): toy, smoke (a demonstration), strict",
     "05_correlation"),
    ("latent_space_toy_smoke_ga_b_fl_b_0_n200",
     ": toy, smoke (a demonstration), Ga-B, Fl-B, 0, n200", "04_latent_space"),
    ("ll_against_bleu_multi30k_de_en_mini_bits_per_char",
     ": multi30k_de_en, mini, bits_per_char", "05_correlation"),
    ("model_sizes", "the published ones", "08_speed"),
])
def test_a_file_is_described_by_its_name(stem, ending, notebook):
    item = gallery.describe(Path(f"{stem}.png"))
    assert item.caption.endswith(ending) and gallery.KINDS[item.kind][1] == notebook


def test_foreign_files_have_no_description():
    assert gallery.describe(Path("holiday.png")) is None


def test_every_notebook_that_is_named_exists():
    for notebook, _ in gallery.QUESTIONS.values():
        assert (NOTEBOOKS / f"{notebook}.ipynb").exists()


@pytest.fixture
def results(isolated):
    """Two figures, two tables and a run with an executed notebook."""
    outputs = isolated / "outputs"
    for name in ("figures/likelihood_audit_toy_smoke.png", "figures/answer_toy_smoke.png",
                 "tables/model_sizes.csv", "tables/table1_toy_smoke_strict.csv",
                 "tables/table1_toy_smoke_strict.md"):
        (outputs / name).parent.mkdir(parents=True, exist_ok=True)
        (outputs / name).touch()
        if name.endswith(".png"):
            Image.new("RGB", (4, 3)).save(outputs / name)
    (made_up_run("tr_s", 0.3, 0.9).path / "03_eval.ipynb").touch()
    return outputs


def test_the_pages_link_what_there_is(results):
    text = gallery.main().read_text()
    report = (results / "report.html").read_text()
    links = [*re.findall(r"\]\(([^)#]+)\)", text), *re.findall(r'href="([^"#]+)"', report)]
    for link in links:
        assert (results / link).exists() or (OUTPUTS / link).resolve().exists(), link
    assert "tables/table1_toy_smoke_strict.md" in links
    assert "tables/table1_toy_smoke_strict.csv" not in links
    assert "| Tr-S | raw | 1 | beam4 | [40.3](runs/toy/smoke/tr_s/raw/s1/) | −0.900 |" in text
    assert gallery.main().read_text() == text
    assert (results / "report.html").read_text() == report


def test_the_seeds_of_a_model_are_one_row(results):
    for bleu, seed in ((0.3, 1), (0.4, 2)):
        made_up_run("ga_b", bleu, 2.0, seed=seed)
    [row] = re.findall(r"^\| Ga-B .*", gallery.main().read_text(), re.MULTILINE)
    assert re.search(r" 1 · 2 \| k4 \| \[[\d.]+\]\(runs\S*s1/\) · \[[\d.]+\]\(runs\S*s2/\) ", row)


def test_models_that_params_no_longer_name_are_last(results):
    for model in ("na_x", "ga_x", "ga_b"):
        made_up_run(model, 0.3, 2.0)
    rows = re.findall(r"^\| \S+ \| raw .*/toy/smoke/(\w+)/raw", gallery.main().read_text(),
                      re.MULTILINE)
    assert rows == ["tr_s", "ga_b", "ga_x", "na_x"]


def test_the_answer_comes_first(results):
    text = gallery.main().read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [question for question in gallery.QUESTIONS
                        if gallery.QUESTIONS[question][0] in ("05_correlation",
                                                              "06_likelihood_audit", "08_speed")
                        ] + ["Runs"]
    assert text.index("answer_toy_smoke.png") < text.index("table1_toy_smoke_strict.md")
    report = (results / "report.html").read_text()
    assert re.findall(r"<h2 [^>]*>([^<]*)<", report)[0] == headings[0]
    assert report.index("<h3") < report.index("<img")


def test_a_demonstration_is_linked_where_there_is_evidence(results):
    (results / "tables" / "table1_toy_small_strict.md").write_text("| a |\n|---|\n")
    text = gallery.main().read_text()
    report = (results / "report.html").read_text()
    assert ("[toy, smoke (a demonstration), strict: table](tables/table1_toy_smoke_strict.md)"
            in text)
    assert "table1_toy_small_strict.md" in report and "table1_toy_smoke" not in report


def test_every_committed_figure_and_table_is_described():
    found = [p for kind in ("figures/*.png", "tables/*.csv") for p in OUTPUTS.glob(kind)]
    if not found:
        pytest.skip("no results yet: make demo")
    assert [p.name for p in found if gallery.describe(p) is None] == []
    assert len(list(OUTPUTS.glob("figures/*.png"))) <= 30
