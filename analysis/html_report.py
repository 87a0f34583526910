"""outputs/report.html: a page of Markdown with its figures, to be read without any other file."""

import base64
import html
import io
import re
from pathlib import Path

import mistune
from PIL import Image

__all__ = ["LARGEST", "page"]

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
h3 { font-size: 1rem; margin: 2.2rem 0 .3rem; }
p, li { max-width: 46rem; }
a { color: var(--link); }
nav { background: var(--band); border: 1px solid var(--line); border-radius: 8px;
      padding: .25rem 1.25rem; margin: 1.5rem 0; font-size: .92rem; }
nav ul { list-style: none; padding: 0; margin: .3rem 0 .6rem; } .level3 { padding-left: 1.2rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; padding: .5rem; }
.close { display: none; position: fixed; top: .5rem; right: .5rem; padding: .2rem .8rem;
         background: var(--band); border: 1px solid var(--line); border-radius: 6px; }
.figure:target { position: fixed; inset: 0; overflow: auto; background: var(--paper); z-index: 1; }
.figure:target img { max-width: none; } .figure:target .close { display: block; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
         vertical-align: top; overflow-wrap: normal; }
th { border-bottom-width: 2px; font-weight: 600; }
tbody tr:nth-child(even) { background: var(--band); }
code { font-size: .9em; }
summary { cursor: pointer; color: var(--link); margin: .5rem 0; }
""".strip()


class _Renderer(mistune.HTMLRenderer):
    """Headings that can be linked to, pictures inside the page, tables that scroll or fold."""

    def __init__(self, root: Path):
        super().__init__(escape=True)
        self.root, self.contents, self.above = root, [], ""
        self.room = LARGEST * 5 // 8  # bytes, for pictures

    def heading(self, text: str, level: int, **_attributes) -> str:
        words = re.sub(r"<[^>]+>", "", text)
        name = html.unescape(f"{self.above if level > 2 else ''} {words}").lower()
        name = re.sub(r"[^a-z0-9_]+", "-", name)
        self.above = words if level == 2 else self.above
        self.contents.append((level, name.strip("-"), words))
        return f'<h{level} id="{name.strip("-")}">{text}</h{level}>\n'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """The picture in 256 colours; tapped, it opens in full size."""
        name, data = Path(url).stem, base64.b64encode(_fewer_colours(self.root / url)).decode()
        self.room -= len(data)
        if self.room < 0:
            return f'<a href="{url}">{text}</a>'
        return (f'<span class="figure" id="{name}"><a href="#{name}"><img alt="{text}"'
                f' src="data:image/png;base64,{data}"></a>'
                f'<a class="close" href="#{name}-below">close</a></span><i id="{name}-below"></i>')

    def table(self, text: str) -> str:
        """In a frame of its own, so that the page never does; long ones are folded."""
        rows = text.count("<tr>") - 1
        table = f'<div class="wide"><table>\n{text}</table></div>\n'
        return table if rows <= ROWS_SHOWN else (
            f"<details><summary>All {rows} rows</summary>\n{table}</details>\n")


def page(text: str, root: Path) -> str:
    """The whole document from its Markdown: a title, what stands below it, the contents folded, and
    the sections. Pictures are read from below `root`.

    No script, no font and no file from elsewhere; the same text gives the same page.
    """
    renderer = _Renderer(root)
    body = mistune.create_markdown(renderer=renderer, plugins=["table"])(text)
    title = next((words for level, _, words in renderer.contents if level == 1), "Results")
    links = "".join(f'<li class="level{level}"><a href="#{name}">{words}</a></li>\n'
                    for level, name, words in renderer.contents if level > 1)
    nav = (f'<nav aria-label="Contents"><details><summary>Contents</summary><ul>\n{links}</ul>'
           "</details></nav>\n" if links else "")
    before, mark, after = body.partition("<h2 ")
    return "\n".join([
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title>", f"<style>\n{STYLE}\n</style>", "</head>", "<body>",
        f"{before}{nav}{mark}{after}</body>", "</html>", ""])


def _fewer_colours(picture: Path) -> bytes:
    """The PNG with a palette: a plot looks the same at a third of the bytes."""
    packed = io.BytesIO()
    with Image.open(picture) as image:
        plain = image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT,
                                              dither=Image.Dither.NONE)
        plain.save(packed, "PNG", optimize=True)
    return packed.getvalue()
