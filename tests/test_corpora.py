"""Every loader on small archives of the real form, and every way in which a corpus can be bad."""

import gzip
import hashlib
import io
import logging
import tarfile
from dataclasses import replace

import pytest
import requests

from lib import corpora
from lib.config import load_dataset
from lib.corpora import Pairs, archives, read
from lib.corpora.sources import public_sets
from lib.errors import ConfigError, DataError

LANGUAGES = ("de", "en")


def tgz(files: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def marked(*sentences: str) -> str:
    """The sentences as the segments of a WMT .sgm or an IWSLT .xml."""
    segments = "".join(f'<seg id="{i}"> {s} </seg>\n' for i, s in enumerate(sentences, 1))
    return f'<srcset setid="x">\n<doc docid="1">\n<p>\n{segments}</p>\n</doc>\n</srcset>\n'


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches for the network; a missing file fails as it does without one."""
    def refuse(*_, **__):
        raise requests.exceptions.ConnectionError("no network")

    monkeypatch.setattr(archives.pooch, "HTTPDownloader", lambda **_: refuse)


@pytest.fixture
def data(isolated, monkeypatch):
    """The data folder; for public corpora the files in it count as the right ones."""
    folder = isolated / "data"

    def trusted(corpus, source, target):
        def trust(remote):
            path = folder / corpus / remote.name
            if not path.exists():
                return remote
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            return replace(remote, checksum=f"sha256:{digest}")

        return {name: replace(part, remotes={x: trust(r) for x, r in part.remotes.items()})
                for name, part in public_sets(corpus, source, target).items()}

    monkeypatch.setattr(corpora, "public_sets", trusted)
    return folder


def place(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.name.endswith((".de.gz", ".en.gz", ".tmx.gz"))
                     else data)
    return path


def own(data, train=(("ja", "nein"), ("yes", "no")), suffix=""):
    """A user's own aligned files, and the dataset that describes them."""
    for stem, pair in {"train": train, "dev": (("a",), ("b",)), "test": (("c",), ("d",))}.items():
        for language, sentences in zip(LANGUAGES, pair, strict=True):
            text = "".join(f"{s}\n" for s in sentences)
            place(data, f"mine/{stem}.{language}{suffix}", text)
    return replace(load_dataset("tatoeba_de_en"), name="mine", folder="mine")


# Pairs ---------------------------------------------------------------------------------------

def test_pairs():
    pairs = Pairs(["a b", "\u2028x"], ["c", "d"])
    assert (len(pairs), pairs.dropped) == (2, 0)
    assert pairs == Pairs(["a b", "\u2028x"], ["c", "d"], names=("x", "y"))


def test_pairs_refuse_unequal_line_counts():
    with pytest.raises(DataError, match=r"x\.de and x\.en are not aligned: 2 and 1 lines"):
        Pairs(["a", "b"], ["c"], names=("x.de", "x.en"))


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u00a0", "\u2028"])
@pytest.mark.parametrize("side", [0, 1])
def test_pairs_refuse_blank_lines(blank, side):
    lines = [["a", "b", "c"], ["d", "e", "f"]]
    lines[side][1] = blank
    with pytest.raises(DataError, match=rf"x\.{LANGUAGES[side]}, line 2 is empty or white space"):
        Pairs(*lines, names=("x.de", "x.en"))


# a user's own files --------------------------------------------------------------------------

@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_own_files(data, suffix):
    dataset = own(data, suffix=suffix)
    assert read(dataset, "train") == Pairs(["ja", "nein"], ["yes", "no"])
    assert read(dataset, "dev") == Pairs(["a"], ["b"])
    assert read(dataset, "test") == Pairs(["c"], ["d"])


def test_own_files_of_several_stems_are_joined_in_order(data):
    dataset = replace(own(data), train=("train", "dev"))
    assert read(dataset, "train") == Pairs(["ja", "nein", "a"], ["yes", "no", "b"])


def test_alignment_holds_with_separators_inside_sentences(data):
    dataset = own(data, train=(("ein\u2028Satz", "zwei\x0b"), ("a sentence", "tw\x85o")))
    assert read(dataset, "train") == Pairs(["ein\u2028Satz", "zwei"], ["a sentence", "tw\x85o"])


def test_lowercase(data):
    dataset = own(data, train=(("ÜBER Straßen",), ("ON Roads",)))
    assert read(replace(dataset, lowercase=True), "train") == Pairs(["über straßen"], ["on roads"])
    assert read(dataset, "train") == Pairs(["ÜBER Straßen"], ["ON Roads"])


@pytest.mark.parametrize(("source", "target"), [("ro", "en"), ("en", "ro")])
def test_romanian_is_normalised_and_nothing_else(data, source, target):
    for stem in ("train", "newsdev2016", "newstest2016"):
        place(data, f"mixed_ro_en/{stem}.ro", "Ţara, ţara, țara Înaltă\n")
        place(data, f"mixed_ro_en/{stem}.en", "Café â ş\n")
    dataset = replace(load_dataset("mixed_ro_en"), source=source, target=target)
    expected = {"ro": ["Tara, tara, tara Inalta"], "en": ["Café â ş"]}
    for split in corpora.SPLITS:
        assert read(dataset, split) == Pairs(expected[source], expected[target])
    kept = read(replace(dataset, options={"normalise_romanian": False}), "test")
    assert "Ţara, ţara, țara Înaltă" in (*kept.source, *kept.target)


@pytest.mark.parametrize(("lowercase", "romanian", "language", "expected"), [
    (False, False, "ro", "Ş \u2028ț"), (True, False, "ro", "ş \u2028ț"),
    (False, True, "ro", "S \u2028t"), (True, True, "ro", "s \u2028t"),
    (True, True, "en", "ş \u2028ț"),
])
def test_a_sentence_is_prepared_for_training_and_translation_alike(lowercase, romanian, language,
                                                                  expected):
    dataset = replace(load_dataset("wmt16_ro_en"), lowercase=lowercase,
                      options={"normalise_romanian": romanian})
    assert corpora.prepared(dataset, language, ["\u00a0Ş \u2028ț \t"]) == [expected]


@pytest.mark.parametrize("split", corpora.SPLITS)
@pytest.mark.parametrize("blank", ["", "  "])
def test_own_files_with_a_blank_line_are_refused(data, split, blank):
    dataset = own(data)
    place(data, f"mine/{split}.de", f"x\n{blank}\n")
    place(data, f"mine/{split}.en", "x\ny\n")
    with pytest.raises(DataError, match=rf"mine/{split}\.de, line 2 is empty or white space"):
        read(dataset, split)


def test_files_whose_counts_only_add_up_are_refused(data):
    dataset = replace(own(data), train=("train", "dev"))
    place(data, "mine/train.de", "a\nb\nc\n")
    place(data, "mine/dev.en", "d\ne\n")
    with pytest.raises(DataError, match=r"train\.de and .*train\.en are not aligned: 3 and 2"):
        read(dataset, "train")


def test_bytes_that_are_not_utf8_are_refused(data):
    dataset = own(data)
    place(data, "mine/train.en", "yes\nnä\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"mine/train\.en, line 2: byte 0xe4 is not UTF-8"):
        read(dataset, "train")


@pytest.mark.parametrize("split", corpora.SPLITS)
def test_empty_files_are_refused(data, split):
    dataset = own(data)
    for language in LANGUAGES:
        place(data, f"mine/{split}.{language}", "")
    with pytest.raises(DataError, match=rf"{split}\.de and .*{split}\.en hold no sentence pair"):
        read(dataset, split)


def test_a_missing_own_file_is_named(data):
    dataset = own(data)
    (data / "mine" / "test.en").unlink()
    with pytest.raises(DataError) as error:
        read(dataset, "test")
    for part in (str(data / "mine" / "test.en"), "test.en.gz", "DISCREPANCY_DATA",
                 "mine has no address"):
        assert part in str(error.value)


def test_a_plain_and_a_compressed_file_of_one_name_are_refused(data):
    dataset = own(data)
    place(data, "mine/train.en.gz", "other\n")
    with pytest.raises(DataError, match=r"train\.en and train\.en\.gz are both there"):
        read(dataset, "train")


# settings ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("change", "message"), [
    ({"options": {"normalize_romanian": True}}, "did you mean normalise_romanian"),
    ({"options": {"normalise_romanian": "yes"}}, "must be true or false"),
    ({"options": {"normalise_romanian": True}}, "neither de nor en is ro"),
    ({"train": ()}, "dataset mine: train names no set"),
])
def test_wrong_settings(data, change, message):
    with pytest.raises(ConfigError, match=message):
        read(replace(own(data), **change), "train")


@pytest.mark.parametrize(("name", "change", "message"), [
    ("multi30k_de_en", {"test": "test_2016"}, "did you mean test_2016_flickr"),
    ("multi30k_de_en", {"source": "cs"}, "no train in language 'cs', only in de, en, fr"),
    ("wmt14_en_de", {"train": ("newscommentary_v9",)}, "did you mean news_commentary_v9"),
    ("iwslt16_de_en", {"dev": "dev2001"}, "did you mean dev2010"),
    ("wmt16_ro_en", {"source": "de", "options": {}}, "no europarl_v8 in language 'de'"),
])
def test_sets_that_are_not_there(data, name, change, message):
    with pytest.raises(ConfigError, match=message):
        read(replace(load_dataset(name), **change), "train")


# synthetic -----------------------------------------------------------------------------------

def test_synthetic():
    toy = load_dataset("toy")
    small = replace(toy, options={**toy.options, "train_pairs": 7, "dev_pairs": 3, "test_pairs": 2})
    assert [len(read(small, split)) for split in corpora.SPLITS] == [7, 3, 2]


# public corpora ------------------------------------------------------------------------------

def test_multi30k(data):
    for name, german, english in (("train", "Ein Hund.\n", "A dog.\n"), ("val", "V\n", "v\n"),
                                  ("test_2016_flickr", "T\n", "t\n")):
        place(data, f"multi30k/{name}.de.gz", german)
        place(data, f"multi30k/{name}.en.gz", english)
    de_en, en_de = load_dataset("multi30k_de_en"), load_dataset("multi30k_en_de")
    assert read(de_en, "train") == Pairs(["Ein Hund."], ["A dog."])
    assert read(en_de, "train") == Pairs(["A dog."], ["Ein Hund."])
    assert read(de_en, "dev") == Pairs(["V"], ["v"])
    assert read(en_de, "test") == Pairs(["t"], ["T"])


def test_a_public_file_with_another_checksum_is_refused(isolated):
    place(isolated / "data", "multi30k/val.de.gz", "not the corpus\n")
    with pytest.raises(DataError, match=r"val\.de\.gz has the wrong checksum \(expected sha256:f0"):
        read(load_dataset("multi30k_de_en"), "dev")


def test_a_missing_corpus_names_every_file_that_it_needs(isolated):
    with pytest.raises(DataError) as error:
        read(load_dataset("wmt16_ro_en"), "dev")
    message = str(error.value)
    assert message.startswith(f"{isolated / 'data' / 'wmt16' / 'dev.tgz'} is missing and could not")
    for part in ("https://data.statmt.org/wmt19/translation-task/dev.tgz", "DISCREPANCY_DATA",
                 "training-parallel-ep-v8.tgz", "en-ro.tmx.gz"):
        assert part in message
    assert message.count("curl") == 3


TAGS = """<url>http://example.org</url>
<keywords>a, b</keywords>
<speaker>S</speaker>
<talkid>1</talkid>
<title>T</title>
<description>D</description>
{extra}{sentences}"""


@pytest.fixture
def iwslt16(data):
    files = {
        "train.tags.de-en.de": TAGS.format(
            extra="<reviewer></reviewer>\n<translator></translator>\n",
            sentences=" Eins &amp; zwei.\n\nDrei.\nVier.\n"),
        "train.tags.de-en.en": TAGS.format(
            extra="", sentences="One &amp; two.\nonly English\nThree.\n \n"),
    }
    for name in ("tst2013", "tst2014", "dev2010"):
        for language in LANGUAGES:
            files[f"IWSLT16.TED.{name}.de-en.{language}.xml"] = marked(
                f"{name} {language} 1", f"{name} {language} &lt;2&gt;")
    inner = tgz({f"de-en/{name}": content for name, content in files.items()})
    place(data, "iwslt16/2016-01.tgz", tgz({"2016-01/texts/README": "x",
                                            "2016-01/texts/de/en/de-en.tgz": inner}))
    return load_dataset("iwslt16_de_en")


def test_iwslt16(iwslt16):
    train = read(iwslt16, "train")
    assert train == Pairs(["Eins & zwei.", "Drei."], ["One & two.", "Three."], dropped=2)
    assert read(iwslt16, "dev") == Pairs(
        ["tst2013 de 1", "tst2013 de <2>"], ["tst2013 en 1", "tst2013 en <2>"])
    assert read(iwslt16, "test").target == ["tst2014 en 1", "tst2014 en <2>"]
    assert read(replace(iwslt16, dev="dev2010"), "dev").source[0] == "dev2010 de 1"


@pytest.fixture
def wmt14(data):
    def text(part, language, *more):
        return "".join(f"{line}\n" for line in (f"{part} {language}", *more))

    place(data, "wmt14/training-parallel-europarl-v7.tgz", tgz({
        "training/europarl-v7.cs-en.en": "wrong\n",
        "training/europarl-v7.de-en.de": text("europarl", "de", "", "Ende"),
        "training/europarl-v7.de-en.en": text("europarl", "en", "gap", "end")}))
    place(data, "wmt14/training-parallel-commoncrawl.tgz", tgz({
        f"commoncrawl.de-en.{x}": text("crawl", x) for x in LANGUAGES}))
    place(data, "wmt14/training-parallel-nc-v9.tgz", tgz({
        f"training/news-commentary-v9.de-en.{x}": text("v9", x) for x in LANGUAGES}))
    place(data, "wmt14/training-parallel-nc-v13.tgz", tgz({
        f"training-parallel-nc-v13/news-commentary-v13.de-en.{x}": text("v13", x)
        for x in LANGUAGES}))
    place(data, "wmt14/dev.tgz", tgz({
        "dev/newstest2013.de": text("2013", "de"), "dev/newstest2013.en": text("2013", "en"),
        "dev/newstest2014-csen-ref.en.sgm": marked("wrong"),
        "dev/newstest2014-deen-src.de.sgm": marked("2014 de", "A & B"),
        "dev/newstest2014-deen-ref.en.sgm": marked("2014 en", "A &amp; B")}))
    return load_dataset("wmt14_de_en")


def test_wmt14(wmt14, caplog):
    with caplog.at_level(logging.INFO, logger="lib.corpora"):
        train = read(wmt14, "train")
    assert train == Pairs(["europarl de", "Ende", "crawl de", "v13 de"],
                          ["europarl en", "end", "crawl en", "v13 en"], dropped=1)
    assert "left out 1 of 3 pairs with a blank side" in caplog.text
    assert read(wmt14, "dev") == Pairs(["2013 de"], ["2013 en"])
    assert read(wmt14, "test") == Pairs(["2014 de", "A & B"], ["2014 en", "A & B"])
    back = load_dataset("wmt14_en_de")
    assert read(back, "test") == Pairs(["2014 en", "A & B"], ["2014 de", "A & B"])
    assert read(back, "train").target == train.source


def test_wmt14_with_the_shared_tasks_news_commentary(wmt14):
    parts = ("europarl_v7", "commoncrawl", "news_commentary_v9")
    assert read(replace(wmt14, train=parts), "train").source[-1] == "v9 de"


def test_unaligned_members_are_named(wmt14, data):
    place(data, "wmt14/dev.tgz", tgz({
        "dev/newstest2014-deen-src.de.sgm": marked("one", "two"),
        "dev/newstest2014-deen-ref.en.sgm": marked("one")}))
    with pytest.raises(DataError, match=r"dev\.tgz: dev/newstest2014-deen-src\.de\.sgm and .*"
                                        r"-ref\.en\.sgm are not aligned: 2 and 1 lines"):
        read(wmt14, "test")


def test_a_blank_segment_of_a_test_set_is_refused(wmt14, data):
    place(data, "wmt14/dev.tgz", tgz({
        "dev/newstest2014-deen-src.de.sgm": marked("one", "two"),
        "dev/newstest2014-deen-ref.en.sgm": marked("one", " ")}))
    with pytest.raises(DataError, match=r"newstest2014-deen-ref\.en\.sgm, line 2 is empty"):
        read(wmt14, "test")


def test_a_test_set_without_segments_is_refused(wmt14, data):
    place(data, "wmt14/dev.tgz", tgz({"dev/newstest2014-deen-src.de.sgm": marked(),
                                      "dev/newstest2014-deen-ref.en.sgm": marked()}))
    with pytest.raises(DataError, match="hold no sentence pair"):
        read(wmt14, "test")


def test_members_that_are_not_utf8_are_named(wmt14, data):
    place(data, "wmt14/training-parallel-commoncrawl.tgz", tgz({
        "commoncrawl.de-en.de": b"gut\n\xff\n", "commoncrawl.de-en.en": b"good\nx\n"}))
    with pytest.raises(DataError, match=r"commoncrawl\.de-en\.de, line 2: byte 0xff is not UTF-8"):
        read(wmt14, "train")


@pytest.fixture
def wmt16(data):
    place(data, "wmt16/training-parallel-ep-v8.tgz", tgz({
        "training-parallel-ep-v8/europarl-v8.ro-en.ro": "Ţară\n\n",
        "training-parallel-ep-v8/europarl-v8.ro-en.en": "Country\nx\n"}))
    unit = '<tu><tuv xml:lang="en"><seg>{}</seg></tuv><tuv xml:lang="ro"><seg>{}</seg></tuv></tu>'
    place(data, "wmt16/en-ro.tmx.gz", "<tmx><body>" + unit.format("State", "Stat și")
          + unit.format("alone", "") + "</body></tmx>")
    place(data, "wmt16/dev.tgz", tgz({
        f"dev/news{name}2016-roen-{side}.{language}.sgm": marked(f"{name} {word}")
        for name in ("dev", "test")
        for side, language, word in (("src", "ro", "știre"), ("ref", "en", "new"))}))
    return load_dataset("wmt16_ro_en")


def test_wmt16(wmt16):
    train = Pairs(["Tara", "Stat si"], ["Country", "State"], dropped=2)
    assert read(wmt16, "train") == train
    assert read(wmt16, "dev") == Pairs(["dev stire"], ["dev new"])
    assert read(wmt16, "test") == Pairs(["test stire"], ["test new"])
    back = load_dataset("wmt16_en_ro")
    assert read(back, "train") == Pairs(train.target, train.source, dropped=2)
    assert read(back, "test") == Pairs(["test new"], ["test stire"])
