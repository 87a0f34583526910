"""outputs/report.html: every figure and table on one page that needs no other file to be read."""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

__all__ = ["LARGEST", "anchor", "figure_html", "folded", "inline", "page", "table_html"]

LARGEST = 2 * 2**20  # bytes of a page: what the repository keeps in one tracked file
ROWS_SHOWN = 14      # a longer table is folded

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
       color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
       overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.4rem; margin: 3rem 0 .5rem; padding-bottom: .3rem;
     border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2.2rem 0 .3rem; }
p, li { max-width: 46rem; }
a { color: var(--link); }
nav { background: var(--band); border: 1px solid var(--line); border-radius: 8px;
      padding: .25rem 1.25rem; margin: 1.5rem 0; font-size: .92rem; }
nav ul { padding-left: 1.1rem; margin: .3rem 0 .6rem; }
figure { margin: .8rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: .5rem; }
.close { display: none; position: fixed; top: .5rem; right: .5rem; padding: .2rem .8rem;
         background: var(--band); border: 1px solid var(--line); border-radius: 6px; }
figure:target { position: fixed; inset: 0; margin: 0; overflow: auto; background: var(--paper);
                z-index: 1; }
figure:target img { max-width: none; } figure:target .close { display: block; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
         vertical-align: top; overflow-wrap: normal; }
th { border-bottom-width: 2px; font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
.soft { color: var(--soft); font-size: .92rem; } code { font-size: .9em; }
summary { cursor: pointer; color: var(--link); margin: .5rem 0; }
""".strip()

Section = tuple[str, Sequence[tuple[str, str]]]
"""A heading, and below it parts: a heading of each (may be empty) and its HTML."""


def anchor(*titles: str) -> str:
    """The name by which a heading is linked to: its letters and digits, those above it first."""
    return re.sub(r"[^a-z0-9_]+", "-", " ".join(titles).lower()).strip("-")


def inline(text: str) -> str:
    """One line of Markdown as HTML: escaped, with its links, `code`, **strong** and *emphasised*
    words.
    """
    text = html.escape(text)
    text = re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"<em>\1</em>", text)


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole document: title, the first section with the answer, then the folded contents and
    the lead (Markdown), then the other sections.

    No script, no font and no file from elsewhere; the same sections give the same text.
    """
    contents = "".join(
        f'<li><a href="#{anchor(name)}">{html.escape(name)}</a><ul>' + "".join(
            f'<li><a href="#{anchor(name, part)}">{html.escape(part)}</a></li>'
            for part, _ in parts if part) + "</ul></li>\n" for name, parts in sections)
    nav = ('<nav aria-label="Contents"><details><summary>Contents</summary>'
           f"<ul>\n{contents}</ul></details></nav>" if sections else
           "<p>There are no results yet: <code>make demo</code>.</p>")
    body = [_section(*section) for section in sections]
    return "\n".join([
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>", f"<style>\n{STYLE}\n</style>", "</head>", "<body>",
        f"<h1>{html.escape(title)}</h1>", f"<p>{inline(lead)}</p>", nav, *body,
        "</body>", "</html>", ""])


def _section(title: str, parts: Iterable[tuple[str, str]]) -> str:
    lines = [f'<h2 id="{anchor(title)}">{html.escape(title)}</h2>']
    for name, body in parts:
        lines += [f'<h3 id="{anchor(title, name)}">{html.escape(name)}</h3>'] if name else []
        lines.append(body)
    return "\n".join(lines)


def figure_html(picture: Path, caption: str, note: str) -> str:
    """A PNG inside the page, in 256 colours, that opens in full size when it is tapped; with a note
    (Markdown) below it. The caption is what it is called to those who can't see it.
    """
    data, name = base64.b64encode(_fewer_colours(picture)).decode("ascii"), anchor(picture.stem)
    return (f'<figure id="{name}"><a href="#{name}"><img alt="{html.escape(caption)}" '
            f'src="data:image/png;base64,{data}"></a><a class="close" href="#{name}-note">close</a>'
            f'<figcaption class="soft" id="{name}-note">{inline(note)}</figcaption></figure>')


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
    for row in lines:
        seen = seen or row.startswith("|")
        if row and not row.startswith("|"):
            (after if seen else before).append(row)
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
    return table if len(rows) - 2 <= ROWS_SHOWN else folded(f"All {len(rows) - 2} rows", table)


def _cells(row: str) -> list[str]:
    """The cells of one line of a Markdown table; a bar inside a cell has a backslash."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def _row(tag: str, cells: Iterable[str], right: Sequence[bool]) -> str:
    return "".join(f'<{tag} class="number">{inline(cell)}</{tag}>' if number else
                   f"<{tag}>{inline(cell)}</{tag}>"
                   for cell, number in zip(cells, right, strict=True))
