"""outputs/report.html: every figure and table on one page that needs no other file to be read."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

__all__ = ["LARGEST", "Section", "anchor", "figure_html", "folded", "inline", "page",
           "table_html"]

LARGEST = 2 * 2**20  # bytes of a page: what the repository keeps in one tracked file
ROWS_SHOWN = 40      # a longer table is folded

STYLE = """
:root { --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --paper: #ffffff; --band: #f6f8fa;
        --link: #0550ae; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --paper: #0d1117; --band: #161b22;
          --link: #79b8ff; }
  img { filter: brightness(.92); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
       color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 .5rem; padding-bottom: .3rem;
     border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2.2rem 0 .3rem; overflow-wrap: anywhere; }
p, li { max-width: 46rem; }
a { color: var(--link); }
nav { background: var(--band); border: 1px solid var(--line); border-radius: 8px;
      padding: .75rem 1.25rem; margin: 1.5rem 0; columns: 20rem; font-size: .92rem; }
nav ul { list-style: none; padding-left: .9rem; margin: .1rem 0 .6rem; break-inside: avoid; }
nav > ul > li { font-weight: 600; } nav li li { font-weight: 400; overflow-wrap: anywhere; }
figure { margin: .8rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
         white-space: nowrap; }
th { border-bottom-width: 2px; font-weight: 600; } td.number, th.number { text-align: right; }
tbody tr:nth-child(even) { background: var(--band); }
.soft { color: var(--soft); font-size: .92rem; } code { font-size: .9em; }
summary { cursor: pointer; color: var(--link); margin: .5rem 0; }
""".strip()


class Section:
    """A heading, and below it parts that each have a heading of their own, in reading order."""

    def __init__(self, title: str):
        self.title = title
        self.parts: list[tuple[str, str]] = []

    def add(self, title: str, body: str) -> None:
        """Put a part at the end: its title as plain text, its body as HTML."""
        self.parts.append((title, body))

    @property
    def size(self) -> int:
        """Characters of what has been put in."""
        return sum(len(title) + len(body) for title, body in self.parts)


def anchor(*titles: str) -> str:
    """The name by which a heading is linked to: its letters and digits, those above it first."""
    return re.sub(r"[^a-z0-9_]+", "-", " ".join(titles).lower()).strip("-")


def inline(text: str) -> str:
    """One line of Markdown as HTML: escaped, with its links, **strong** and *emphasised* words."""
    text = html.escape(text)
    text = re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"<em>\1</em>", text)


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole document: title, lead (HTML), table of contents, then all sections.

    No script, no font and no file from elsewhere; the same sections give the same text.
    """
    filled = [section for section in sections if section.parts]
    contents = "".join(
        f'<li><a href="#{anchor(section.title)}">{html.escape(section.title)}</a><ul>' + "".join(
            f'<li><a href="#{anchor(section.title, name)}">{html.escape(name)}</a></li>'
            for name, _ in section.parts if name) + "</ul></li>\n" for section in filled)
    lines = ["<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width, initial-scale=1">',
             f"<title>{html.escape(title)}</title>", f"<style>\n{STYLE}\n</style>", "</head>",
             "<body>", f"<h1>{html.escape(title)}</h1>", lead,
             f'<nav aria-label="Contents"><ul>\n{contents}</ul></nav>' if contents else
             "<p>There are no results yet: <code>make demo</code>.</p>"]
    for section in filled:
        lines.append(f'<h2 id="{anchor(section.title)}">{html.escape(section.title)}</h2>')
        for name, body in section.parts:
            if name:
                lines.append(f'<h3 id="{anchor(section.title, name)}">{html.escape(name)}</h3>')
            lines.append(body)
    return "\n".join([*lines, "</body>", "</html>", ""])


def figure_html(picture: Path, sentence: str) -> str:
    """A PNG inside the page, in 256 colours, with one sentence (Markdown) below it, which is also
    what it is called to those who can't see it.
    """
    data = base64.b64encode(_fewer_colours(picture)).decode("ascii")
    told = html.escape(re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", sentence))
    return (f'<figure><img alt="{told}" src="data:image/png;base64,{data}">'
            f'<figcaption class="soft">{inline(sentence)}</figcaption></figure>')


def _fewer_colours(picture: Path) -> bytes:
    """The PNG with a palette: a plot looks the same at a third of the bytes."""
    packed = io.BytesIO()
    with Image.open(picture) as image:
        plain = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT,
                                              dither=Image.Dither.NONE)
        plain.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def folded(title: str, body: str) -> str:
    """`body` (HTML) behind its title, to be opened by the reader."""
    return f"<details><summary>{html.escape(title)}</summary>\n{body}\n</details>"


def table_html(text: str) -> str:
    """A table's Markdown file (lines, one table, notes) as HTML; long tables are folded."""
    lines = text.split("\n")
    rows = [line for line in lines if line.startswith("|")]
    before, after, seen = [], [], False
    for line in lines:
        seen = seen or line.startswith("|")
        if line and not line.startswith("|"):
            (after if seen else before).append(line)
    parts = [f'<p class="soft">{inline("; ".join(before))}</p>'] if before else []
    if len(rows) > 1:
        parts.append(_table(rows))
    return "\n".join([*parts, *(f'<p class="soft">{inline(note)}</p>' for note in after)])


def _table(rows: Sequence[str]) -> str:
    heads, marks = _cells(rows[0]), _cells(rows[1])
    right = [mark.endswith(":") for mark in marks]
    body = "\n".join(f"<tr>{_row('td', _cells(row), right)}</tr>" for row in rows[2:])
    table = (f'<div class="wide"><table>\n<thead><tr>{_row("th", heads, right)}</tr></thead>\n'
             f"<tbody>\n{body}\n</tbody></table></div>")
    if len(rows) - 2 <= ROWS_SHOWN:
        return table
    return folded(f"All {len(rows) - 2} rows", table)


def _cells(row: str) -> list[str]:
    """The cells of one line of a Markdown table; a bar inside a cell has a backslash."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def _row(tag: str, cells: Iterable[str], right: Sequence[bool]) -> str:
    return "".join(f'<{tag}{" class=" + chr(34) + "number" + chr(34) if number else ""}>'
                   f"{inline(cell)}</{tag}>"
                   for cell, number in zip(cells, right, strict=True))

