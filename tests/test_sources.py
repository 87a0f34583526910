"""The tables of downloads: their form, and that params/datasets names only what is in them."""

import re

import pytest

from lib.config import datasets, load_dataset
from lib.corpora.sources import public_sets

PAIRS = {"multi30k": ("de", "en"), "iwslt16": ("de", "en"), "wmt14": ("de", "en"),
         "wmt16": ("ro", "en")}
DIGITS = {"sha256": 64, "md5": 32}
PARTS = [(corpus, name, part) for corpus, languages in PAIRS.items()
         for name, part in public_sets(corpus, *languages).items()]


@pytest.mark.parametrize(("corpus", "name", "part"), PARTS,
                         ids=[f"{corpus}-{name}" for corpus, name, _ in PARTS])
def test_every_part_is_complete(corpus, name, part):
    assert set(part.remotes) >= set(PAIRS[corpus])
    assert part.members is None or set(part.members) == set(part.remotes)
    for remote in part.remotes.values():
        algorithm, digest = remote.checksum.split(":")
        assert re.fullmatch(f"[0-9a-f]{{{DIGITS[algorithm]}}}", digest)
        assert remote.address.startswith("https://")
        assert "/" not in remote.name


def test_a_file_has_one_checksum_and_a_checksum_one_file():
    remotes = {remote for _, _, part in PARTS for remote in part.remotes.values()}
    assert len({r.checksum for r in remotes}) == len({r.address for r in remotes}) == len(remotes)


@pytest.mark.parametrize(("corpus", "name", "part"), [p for p in PARTS if p[2].members])
def test_members_name_their_language(corpus, name, part):
    for language, member in part.members.items():
        assert language in re.split(r"\.", member), f"{member} for {language}"


@pytest.mark.parametrize("name", datasets())
def test_datasets_name_sets_that_there_are(name):
    dataset = load_dataset(name)
    assert dataset.name == name
    if dataset.corpus in PAIRS:
        sets = public_sets(dataset.corpus, dataset.source, dataset.target)
        for stem in (*dataset.train, dataset.dev, dataset.test):
            assert {dataset.source, dataset.target} <= set(sets[stem].remotes)


def test_datasets_of_the_paper_are_those_of_its_tables():
    published = {load_dataset(name).published for name in datasets()} - {None}
    assert published == {"WMT'14 En-De", "WMT'14 De-En", "WMT'16 En-Ro", "WMT'16 Ro-En",
                         "IWSLT'16 De-En"}
