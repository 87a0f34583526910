"""The text forms of the corpora: plain lines, SGML and XML segments, TED tags, TMX, Romanian."""

import gzip
import re
import zlib
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import unescape

from lib.errors import DataError

__all__ = ["decode", "lines", "normalise_romanian", "segments", "tagged_lines", "tmx",
           "uncompressed"]

_SEGMENT = re.compile(r"<seg\b[^>]*>(.*?)</seg\s*>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"\s*</?(?:url|keywords|speaker|talkid|title|description|reviewer|translator|doc)"
                  r"\b", re.IGNORECASE)
_BREAK = re.compile(r"\s*[\r\n]+\s*")
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"

_CEDILLA_TO_COMMA = str.maketrans("\u015e\u015f\u0162\u0163", "\u0218\u0219\u021a\u021b")
_DIACRITICS = str.maketrans("\u0218\u0219\u021a\u021b\u0102\u0103\u00c2\u00e2\u00ce\u00ee",
                            "SsTtAaAaIi")


def uncompressed(path: Path) -> bytes:
    """A file's content, through gzip for a .gz. Errors: DataError for one that is damaged."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path, "rb") as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole .gz file ({error}): fetch or write it again"
                        ) from error


def decode(data: bytes, name: str) -> str:
    """UTF-8 text, no byte-order mark. Errors: DataError, with file and line, for other bytes."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
                        "convert the file with `iconv -f ENCODING -t UTF-8`") from error


def lines(data: bytes, name: str) -> list[str]:
    """The lines of a plain text, one sentence each, without the white space around them.

    Split at line feeds only: other separators occur inside real sentences.
    """
    text = decode(data, name)
    return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []


def segments(data: bytes, name: str) -> list[str]:
    """The `<seg>` elements of a WMT .sgm or IWSLT .xml file, in order.

    Not parsed as XML, because some of WMT's files aren't; the five XML escapes are undone.
    """
    return [_one_line(segment) for segment in _SEGMENT.findall(decode(data, name))]


def tagged_lines(data: bytes, name: str) -> list[str]:
    """The sentences of an IWSLT `train.tags` file: its lines but for a talk's metadata, which the
    two languages don't share.
    """
    return [_one_line(line) for line in decode(data, name).removesuffix("\n").split("\n")
            if not _TAG.match(line)]


def tmx(path: Path, source: str, target: str) -> tuple[list[str], list[str]]:
    """Sentences of two languages from a TMX file, streamed; a unit that lacks one gives an empty
    line there. Errors: DataError when the file is not well-formed XML or is a damaged .gz.
    """
    texts = {source: [], target: []}
    try:
        with (gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as file:
            body = None
            for event, element in ElementTree.iterparse(file, events=("start", "end")):
                if event == "start" and element.tag == "body":
                    body = element
                elif event == "end" and element.tag == "tu":
                    unit = _unit(element)
                    for language, sentences in texts.items():
                        sentences.append(unit.get(language, ""))
                    if body is not None:
                        body.clear()
    except (ElementTree.ParseError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole TMX file ({error}): fetch it again") from error
    return texts[source], texts[target]


def _unit(element: ElementTree.Element) -> dict[str, str]:
    unit = {}
    for variant in element.iterfind("tuv"):
        language = variant.get(_LANGUAGE, variant.get("lang", "")).lower()
        segment = variant.find("seg")
        if segment is not None:
            text = _BREAK.sub(" ", "".join(segment.itertext())).strip()
            unit[re.split("[-_]", language)[0]] = text
    return unit


def _one_line(text: str) -> str:
    return _BREAK.sub(" ", unescape(text, {"&quot;": '"', "&apos;": "'"})).strip()


def normalise_romanian(text: str) -> str:
    """Romanian as Sennrich et al. (2016) prepare it: without diacritics, of s and t in either form.
    """
    return text.translate(_CEDILLA_TO_COMMA).translate(_DIACRITICS)
