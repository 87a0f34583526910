"""The page of results in one file: nothing from elsewhere, every link to a place that exists."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from analysis import html_report


class Checker(HTMLParser):
    """Notes what is open, what is linked to, and what has a name."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.names, self.sources = [], [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.sources += [found["src"]] if "src" in found else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def document(tmp_path):
    picture = tmp_path / "a.png"
    Image.effect_noise((20, 10), 100).save(picture)
    figure = html_report.figure_html(picture, "Points & lines", "Made by [x](x.ipynb).")
    table = html_report.table_html("dataset: toy\n\n| a | b |\n|---|---:|\n| x | 1 |\n")
    return html_report.page("T <1>", "lead", [("Figures", [("one", figure)]),
                                              ("Tables", [("one", table)])])


def test_every_tag_closes_and_every_heading_is_linked(document):
    checker = Checker()
    checker.feed(document)
    assert checker.open == []
    assert len(set(checker.names)) == len(checker.names) == 6  # two sections, two parts, a figure
    assert {link[1:] for link in checker.links if link.startswith("#")} == set(checker.names)
    assert "T &lt;1&gt;" in document and "<details><summary>Contents</summary>" in document


def test_nothing_comes_from_elsewhere(document):
    checker = Checker()
    checker.feed(document)
    assert checker.sources and all(source.startswith("data:image/png;base64,")
                                   for source in checker.sources)
    assert "<script" not in document and "<link" not in document and "url(" not in document
    assert not re.search(r"https?:", document)
    assert "prefers-color-scheme: dark" in document


def test_a_figure_is_told_to_those_who_cannot_see_it(document):
    assert 'alt="Points &amp; lines"' in document
    assert 'Made by <a href="x.ipynb">x</a>.' in document


def test_a_plot_keeps_its_colours_with_a_palette_of_256(tmp_path):
    """Flat colours come back as they were; a thousand shades come back close to what they were."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20] = (0, 114, 178)
    picture[:, 30:, 2] = np.linspace(0, 255, 30).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    body = html_report.figure_html(tmp_path / "a.png", "Colours", "")
    data = base64.b64decode(re.search(r'base64,([^"]+)"', body)[1])
    found = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert found.shape == picture.shape
    assert np.abs(found - picture).max() <= 4


def test_tables_keep_numbers_right_and_bars_in_cells():
    text = html_report.table_html("scale: mini\n\n| a | n |\n|---|---:|\n| x\\|<y> | 1 |\n\n"
                                  "A note.\n")
    assert '<th>a</th><th class="number">n</th>' in text
    assert '<td>x|&lt;y&gt;</td><td class="number">1</td>' in text
    assert text.startswith('<p class="soft">scale: mini</p>')
    assert text.endswith('<p class="soft">A note.</p>')
    assert "<details>" not in text
    rows = "| a |\n|---|\n" + "| x |\n" * (html_report.ROWS_SHOWN + 1)
    assert "<summary>All 15 rows</summary>" in html_report.table_html(rows)


def test_inline_markdown_is_escaped_first():
    assert html_report.inline("a < b, **c** and *holds*, `x`: [d_e](f_g.md)") == (
        "a &lt; b, <strong>c</strong> and <em>holds</em>, <code>x</code>: "
        '<a href="f_g.md">d_e</a>')
    assert html_report.inline("2 * 3 * 4") == "2 * 3 * 4"


def test_no_results_are_said():
    assert "no results yet" in html_report.page("t", "", [])
