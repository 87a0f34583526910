"""The page of results in one file: nothing from elsewhere, every link to a place that exists."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from analysis import html_report

PAGE = """# T <1>

A lead with `code` and [x](x.ipynb).

## Figures

### One & two

![Points & lines](figures/a.png)

## Tables

### One & two

dataset: toy

| a | b |
|---|---:|
| x\\|<y> | 1 |

A note.
"""


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
def root(tmp_path):
    (tmp_path / "figures").mkdir()
    Image.effect_noise((20, 10), 100).save(tmp_path / "figures" / "a.png")
    return tmp_path


@pytest.fixture
def document(root):
    return html_report.page(PAGE, root)


def test_every_tag_closes_and_every_heading_is_linked(document):
    checker = Checker()
    checker.feed(document)
    assert checker.open == []
    # the title, two sections, a part in each, a figure and what stands below it
    assert len(set(checker.names)) == len(checker.names) == 7
    inner = {link[1:] for link in checker.links if link.startswith("#")}
    assert inner == set(checker.names) - {"t-1"}
    assert "<title>T &lt;1&gt;</title>" in document
    assert document.index("A lead") < document.index("<summary>Contents") < document.index("<h2")


def test_nothing_comes_from_elsewhere(document):
    checker = Checker()
    checker.feed(document)
    assert checker.sources and all(source.startswith("data:image/png;base64,")
                                   for source in checker.sources)
    assert "<script" not in document and "<link" not in document and "url(" not in document
    assert not re.search(r"https?:", document)
    assert "prefers-color-scheme: dark" in document
    assert 'alt="Points &amp; lines"' in document


def test_a_plot_keeps_its_colours_with_a_palette_of_256(root):
    """Flat colours come back as they were; a thousand shades come back close to what they were."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20] = (0, 114, 178)
    picture[:, 30:, 2] = np.linspace(0, 255, 30).astype(np.uint8)
    Image.fromarray(picture).save(root / "figures" / "a.png")
    data = base64.b64decode(re.search(r'base64,([^"]+)"', html_report.page(PAGE, root))[1])
    found = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert found.shape == picture.shape
    assert np.abs(found - picture).max() <= 4


def test_tables_scroll_in_a_frame_of_their_own_and_long_ones_are_folded(document, root):
    assert '<div class="wide"><table>' in document and "All 1 rows" not in document
    assert '<td style="text-align:right">1</td>' in document and "x|&lt;y&gt;" in document
    rows = "| a |\n|---|\n" + "| x |\n" * (html_report.ROWS_SHOWN + 1)
    assert "<summary>All 15 rows</summary>" in html_report.page(rows, root)


def test_what_would_be_too_much_is_linked(root, monkeypatch):
    monkeypatch.setattr(html_report, "LARGEST", 100)
    text = html_report.page(PAGE, root)
    assert "data:image" not in text
    assert '<a href="figures/a.png">Points &amp; lines</a>' in text
