"""The page of results: everything there is, with a sentence."""

import json
import re
from pathlib import Path

import pytest
from made_up import made_up_run
from PIL import Image

from analysis import gallery
from lib.paths import ROOT


@pytest.mark.parametrize(("stem", "ending", "maker"), [
    ("table1_toy_smoke_strict", "(its Table 1): toy, smoke, strict", "05_correlation"),
    ("latent_space_toy_smoke_ga_b_fl_b_0", ": toy, smoke, ga_b, fl_b, 0", "04_latent_space"),
    ("ll_against_bleu_multi30k_de_en_mini_bits_per_char",
     ": multi30k_de_en, mini, bits_per_char", "05_correlation"),
    ("model_sizes", "the published ones", "analysis/sizes.py"),
])
def test_a_file_is_described_by_its_name(stem, ending, maker):
    sentence, made_by = gallery.describe(stem)
    assert sentence.endswith(ending) and made_by == maker


def test_foreign_files_have_no_description():
    assert gallery.describe("holiday") is None


def test_the_page_links_what_there_is(isolated):
    outputs = isolated / "outputs"
    for name in ("figures/ll_against_bleu_toy_smoke_strict.png", "tables/model_sizes.csv",
                 "figures/likelihood_by_length_toy_smoke_tr_s_raw_s1.png",
                 "tables/table1_toy_smoke_strict.csv", "tables/table1_toy_smoke_strict.md"):
        (outputs / name).parent.mkdir(parents=True, exist_ok=True)
        (outputs / name).touch()
        if name.endswith(".png"):
            Image.new("RGB", (4, 3)).save(outputs / name)
    run = made_up_run("tr_s", 0.3, 0.9)
    (run.path / "03_eval.ipynb").touch()
    values = json.loads(run.metrics.read_text())
    values["bleu"]["beam4"]["score"] = 23.456
    values["log_likelihood"]["strict"]["mean"] = -0.9
    run.metrics.write_text(json.dumps(values))
    page = gallery.main()
    text = page.read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    for link in links:
        assert (outputs / link).exists() or (ROOT / "outputs" / link).resolve().exists(), link
    assert "tables/table1_toy_smoke_strict.md" in links
    assert "tables/table1_toy_smoke_strict.csv" not in links
    assert "| 23.5 | −0.900 |" in text and "03_eval.ipynb" in text
    assert "](runs/toy/smoke)" not in text and "(runs/toy/smoke/tr_s/raw/s1/)" in text
    report = (outputs / "report.html").read_text()
    for link in re.findall(r'href="([^"#]+)"', report):
        assert (outputs / link).exists() or (ROOT / "outputs" / link).resolve().exists(), link
    assert '<h3 id="tables-table1_toy_smoke_strict">' in report
    assert gallery.main().read_text() == text
    assert (outputs / "report.html").read_text() == report


def test_figures_of_single_runs_are_linked_where_they_would_be_too_much(isolated, monkeypatch):
    figures = isolated / "outputs" / "figures"
    figures.mkdir()
    for model in ("tr_s", "ga_b"):
        picture = figures / f"likelihood_by_length_toy_smoke_{model}_raw_s1.png"
        Image.effect_noise((60, 50), 100).save(picture)
    monkeypatch.setattr(gallery.html_report, "LARGEST", 8000)  # over 4,000 bytes each, encoded
    gallery.main()
    report = (isolated / "outputs" / "report.html").read_text()
    assert report.count("data:image/png") == 1
    assert 'href="figures/likelihood_by_length_toy_smoke_tr_s_raw_s1.png"' in report


def test_the_committed_page_is_small():
    page = ROOT / "outputs" / "report.html"
    if not page.exists():
        pytest.skip("no results yet: make demo")
    assert page.stat().st_size < gallery.html_report.LARGEST


def test_every_committed_figure_and_table_is_described():
    found = [p for kind in ("figures/*.png", "tables/*.csv")
             for p in Path(ROOT / "outputs").glob(kind)]
    if not found:
        pytest.skip("no results yet: make demo")
    assert [p.name for p in found if gallery.describe(p.stem) is None] == []
