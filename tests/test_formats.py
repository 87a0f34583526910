"""The forms of the corpora, each on a text small enough to see what must come out."""

import gzip

import pytest

from lib.corpora import formats
from lib.errors import DataError


def test_lines_split_at_line_feeds_only():
    text = "a\u2028b\nc\u0085d\x0be\nf\x0cg\rh\n"
    assert formats.lines(text.encode(), "x") == ["a\u2028b", "c\u0085d\x0be", "f\x0cg\rh"]


@pytest.mark.parametrize(("data", "expected"), [
    (b"", []), (b"a", ["a"]), (b"a\n", ["a"]), (b"\n", [""]), (b"a\n\n", ["a", ""]),
    (b"a\n \nb\n", ["a", "", "b"]), (b" a \t\r\nb\r\n", ["a", "b"]), (b"\xef\xbb\xbfa\n", ["a"]),
    (b"R&amp;B <i>\n", ["R&amp;B <i>"]),
])
def test_lines(data, expected):
    assert formats.lines(data, "x") == expected


@pytest.mark.parametrize("read", [formats.lines, formats.segments, formats.tagged_lines])
def test_bytes_that_are_not_utf8_name_file_and_line(read):
    with pytest.raises(DataError, match=r"corpus\.de, line 3: byte 0xfc is not UTF-8"):
        read("gut\nauch gut\nüber".encode()[:-5] + b"\xfcber\nx\n", "corpus.de")


def test_uncompressed_goes_by_the_extension(tmp_path):
    plain, compressed = tmp_path / "x.de", tmp_path / "x.de.gz"
    plain.write_bytes(b"a\n")
    compressed.write_bytes(gzip.compress(b"b\n"))
    assert (formats.uncompressed(plain), formats.uncompressed(compressed)) == (b"a\n", b"b\n")


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: b"no gzip at all",
                                    lambda data: data[:20] + b"\xff\xff\xff" + data[23:]])
def test_a_damaged_gz_names_the_file(tmp_path, damage):
    path = tmp_path / "x.de.gz"
    path.write_bytes(damage(gzip.compress(bytes(range(256)) * 40)))
    with pytest.raises(DataError, match=r"x\.de\.gz is not a whole \.gz file"):
        formats.uncompressed(path)


def test_segments_of_sgml_that_is_not_xml():
    text = """<srcset setid="newstest" srclang="any">
<doc sysid="ref" docid="one" genre="news" origlang="en">
<hl>
<seg id="1">A & B &amp; C &quot;q&quot; &lt;x&gt; it&apos;s</seg>
</hl>
<p>
<seg id="2"> spaces around </seg>
<SEG id="3">two
 lines</SEG> <seg id=4>unquoted, same line</seg>
<seg id="5"></seg>
</p>
</doc>
</srcset>
"""
    assert formats.segments(text.encode(), "x") == [
        "A & B & C \"q\" <x> it's", "spaces around", "two lines", "unquoted, same line", ""]


def test_tagged_lines_leave_out_the_metadata():
    text = """<url>http://example.org/talk</url>
<keywords>talks, a, b</keywords>
<speaker>A Speaker</speaker>
<talkid>535</talkid>
<title>A title</title>
<description>TED Talk Subtitles</description>
 First sentence.
<laughter> begins no metadata, nor does <title>.
titles &amp; urls are words too
<reviewer href="http://example.org">R</reviewer>
<translator href="http://example.org">T</translator>
<doc docid="2" genre="lectures">
</doc>
"""
    assert formats.tagged_lines(text.encode(), "x") == [
        "First sentence.", "<laughter> begins no metadata, nor does <title>.",
        "titles & urls are words too"]


TMX = """<?xml version="1.0" encoding="UTF-8" ?>
<tmx version="1.4"><header adminlang="en"/><body>
<tu><tuv xml:lang="en"><seg>One &amp; two</seg></tuv><tuv xml:lang="ro"><seg>Unu</seg></tuv></tu>
<tu><tuv xml:lang="ro"><seg>Doi
 rânduri</seg></tuv><tuv xml:lang="en-GB"><seg>Two <hi>rows</hi> here</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>no partner</seg></tuv></tu>
<tu><tuv lang="RO"><seg> </seg></tuv><tuv lang="EN"><seg>x</seg></tuv></tu>
</body></tmx>
"""


@pytest.mark.parametrize("name", ["x.tmx", "x.tmx.gz"])
def test_tmx(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(TMX.encode()) if name.endswith(".gz") else TMX.encode())
    assert formats.tmx(path, "ro", "en") == (
        ["Unu", "Doi rânduri", "", ""], ["One & two", "Two rows here", "no partner", "x"])


@pytest.mark.parametrize("data", [
    TMX[:-30].encode(), gzip.compress(TMX.encode())[:-20], b"plain", TMX.encode() + b"<"],
    ids=["cut", "cut gz", "plain", "more"])
def test_a_damaged_tmx_names_the_file(tmp_path, data):
    path = tmp_path / ("x.tmx.gz" if data.startswith(b"\x1f\x8b") else "x.tmx")
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.tmx(\.gz)? is not a whole TMX file"):
        formats.tmx(path, "ro", "en")


def test_romanian_code_point_by_code_point():
    before = "\u015e\u015f\u0162\u0163\u0218\u0219\u021a\u021b\u0102\u0103\u00c2\u00e2\u00ce\u00ee"
    assert formats.normalise_romanian(before) == "SsTtSsTtAaAaIi"
    assert formats.normalise_romanian("Ţara și țara în pâine: café, Ö") == (
        "Tara si tara in paine: café, Ö")
