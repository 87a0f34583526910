"""Where the public corpora are downloaded from, and which of their files hold which set.

Checksums as TensorFlow Datasets (WMT), torchtext (IWSLT) and the Multi30k repository record them.
"""

from dataclasses import dataclass

from lib.corpora.archives import Remote

__all__ = ["Part", "public_sets"]


@dataclass(frozen=True)
class Part:
    """One aligned set of sentence pairs inside downloaded files."""

    remotes: dict[str, Remote]  # language -> the file that it is in (often one for both)
    members: dict[str, str] | None = None  # language -> file inside that archive; None = no archive
    inner: str | None = None  # the archive inside the archive that holds the members


def public_sets(corpus: str, source: str, target: str) -> dict[str, Part]:
    """Every set of a public corpus by its name, for `train`, `dev` and `test` in params/datasets.

    A part may lack a language; `corpus` is multi30k, iwslt16, wmt14 or wmt16.
    """
    if corpus == "iwslt16":
        return _iwslt16(source, target)
    return {"multi30k": _MULTI30K, "wmt14": _WMT14, "wmt16": _WMT16}[corpus]


# --- Multi30k, task 1, raw: plain files on GitHub -------------------------------------------------

_MULTI30K_ADDRESS = ("https://raw.githubusercontent.com/multi30k/dataset/"
                     "a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw")
_MULTI30K_SHA256 = {
    "train": {
        "de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
        "en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
        "fr": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c"},
    "val": {
        "de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
        "en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
        "fr": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9"},
    "test_2016_flickr": {
        "de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
        "en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
        "fr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90"},
    "test_2017_flickr": {
        "de": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
        "en": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074"},
    "test_2017_mscoco": {
        "de": "799e4854c25d601cb6cb6be29eabe5667734c61ace2f495e03e429031a0bc338",
        "en": "aab300bfb4427697987e02cd0aacd44bfe8aa50456231b6474c08038bbed2b58"},
}
_MULTI30K = {
    name: Part({language: Remote(f"{name}.{language}.gz",
                                 f"{_MULTI30K_ADDRESS}/{name}.{language}.gz", f"sha256:{sha256}")
                for language, sha256 in by_language.items()})
    for name, by_language in _MULTI30K_SHA256.items()
}


# --- IWSLT'16: one archive with an archive a language pair ----------------------------------------

_IWSLT16_ARCHIVE = Remote(
    "2016-01.tgz",
    # `confirm` skips the page that asks whether so large a file may go without a virus scan.
    "https://drive.google.com/uc?id=1l5y6Giag9aRPwGtuZHswh3w5v3qEz8D8&export=download&confirm=t",
    "md5:c393ed3fc2a1b0f004b3331043f615ae")
_IWSLT16_EVALUATION = ("dev2010", "tst2010", "tst2011", "tst2012", "tst2013", "tst2014")


def _iwslt16(source: str, target: str) -> dict[str, Part]:
    pair = f"{source}-{target}"
    languages = (source, target)
    remotes = dict.fromkeys(languages, _IWSLT16_ARCHIVE)
    inner = f"texts/{source}/{target}/{pair}.tgz"
    sets = {"train": {x: f"{pair}/train.tags.{pair}.{x}" for x in languages}}
    for name in _IWSLT16_EVALUATION:
        sets[name] = {x: f"{pair}/IWSLT16.TED.{name}.{pair}.{x}.xml" for x in languages}
    return {name: Part(remotes, members, inner) for name, members in sets.items()}


# --- WMT'14 and WMT'16: archives of plain texts and SGML, and one TMX file ------------------------

def _plain(remote: Remote, stem: str, *languages: str) -> Part:
    return Part(dict.fromkeys(languages, remote), {x: f"{stem}.{x}" for x in languages})


def _sgml(remote: Remote, stem: str, source: str, target: str) -> Part:
    return Part({source: remote, target: remote}, {
        source: f"{stem}-src.{source}.sgm", target: f"{stem}-ref.{target}.sgm"})


_WMT_DEV = Remote(
    "dev.tgz", "https://data.statmt.org/wmt19/translation-task/dev.tgz",
    "sha256:7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7")
_EUROPARL_V7 = Remote(
    "training-parallel-europarl-v7.tgz",
    "https://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz",
    "sha256:0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7")
_COMMON_CRAWL = Remote(
    "training-parallel-commoncrawl.tgz",
    "https://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz",
    "sha256:c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5")
_NEWS_COMMENTARY_V9 = Remote(
    "training-parallel-nc-v9.tgz", "https://www.statmt.org/wmt14/training-parallel-nc-v9.tgz",
    "sha256:cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485")
_NEWS_COMMENTARY_V13 = Remote(
    "training-parallel-nc-v13.tgz",
    "https://data.statmt.org/wmt18/translation-task/training-parallel-nc-v13.tgz",
    "sha256:17992b7e919cfb754c60f4e754148bc23b80706ad0ed7b34150831a554b40c91")
_EUROPARL_V8 = Remote(
    "training-parallel-ep-v8.tgz",
    "https://data.statmt.org/wmt16/translation-task/training-parallel-ep-v8.tgz",
    "sha256:8917bd3bef3bc894c8519ca1f8a4c7c330aad08a1263655a9d99ee13d532e3c7")
_SETIMES_2 = Remote(
    "en-ro.tmx.gz", "https://opus.nlpl.eu/download.php?f=SETIMES/v2/tmx/en-ro.tmx.gz",
    "sha256:56bfaa2a8c8bdfccb7b50cc926067e2291347d807004e81faab8762ddbf26302")

_WMT14 = {
    "europarl_v7": _plain(_EUROPARL_V7, "training/europarl-v7.de-en", "de", "en"),
    "commoncrawl": _plain(_COMMON_CRAWL, "commoncrawl.de-en", "de", "en"),
    "news_commentary_v9": _plain(
        _NEWS_COMMENTARY_V9, "training/news-commentary-v9.de-en", "de", "en"),
    "news_commentary_v13": _plain(
        _NEWS_COMMENTARY_V13, "training-parallel-nc-v13/news-commentary-v13.de-en", "de", "en"),
    "newstest2013": _plain(_WMT_DEV, "dev/newstest2013", "de", "en"),
    # The same pairs serve both directions.
    "newstest2014": _sgml(_WMT_DEV, "dev/newstest2014-deen", "de", "en"),
}
_WMT16 = {
    "europarl_v8": _plain(_EUROPARL_V8, "training-parallel-ep-v8/europarl-v8.ro-en", "ro", "en"),
    "setimes_v2": Part({"ro": _SETIMES_2, "en": _SETIMES_2}),
    "newsdev2016": _sgml(_WMT_DEV, "dev/newsdev2016-roen", "ro", "en"),
    "newstest2016": _sgml(_WMT_DEV, "dev/newstest2016-roen", "ro", "en"),
}
