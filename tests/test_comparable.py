"""Runs that may not stand in one table are refused, with what differs and whose it is."""

import json

import pytest
from made_up import made_up_references, made_up_run
from sacrebleu.metrics import BLEU

from analysis import tables
from analysis.correlation import models_table
from analysis.resampling import resample_runs
from analysis.systems import collect
from lib.errors import DataError
from lib.subword import text_fingerprint

REFERENCES = made_up_references(40)
THEIRS = text_fingerprint(REFERENCES)
TEXTS = {"references": THEIRS, "sources": "5" * 16}


@pytest.fixture
def scored(isolated):
    """Make runs whose metrics.json have these entries; returns their folders by model."""

    def make(**by_model) -> dict:
        folders = {}
        for place, (model, entries) in enumerate(by_model.items()):
            run = folders[model] = made_up_run(model, 0.1 * (place + 1), 1.0, references=REFERENCES)
            metrics = json.loads(run.metrics.read_text())
            metrics["test_set"] |= entries.pop("test_set", TEXTS)
            if samples := entries.pop("samples", 0):
                for cell in metrics["log_likelihood"].values():
                    cell["samples"] = samples
            for cell in metrics["bleu"].values():
                cell["signature"] = entries.get("signature", "tok:13a")
            run.metrics.write_text(json.dumps(metrics | {"vocabulary": "v1"} | entries))
        return folders
    return make


def refused(what) -> str:
    with pytest.raises(DataError) as caught:
        what()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("side", ["references", "sources"])
@pytest.mark.parametrize("value", ["9" * 16, ""], ids=["another text", "not recorded"])
def test_different_test_texts(scored, side, value):
    """The line counts agree; a run of before the record is refused beside one with it."""
    scored(tr_s={}, ga_b={"test_set": TEXTS | {side: value}})
    told = refused(collect)
    assert told.startswith(f"toy/smoke: runs were scored on different test texts ({side} ")
    assert f"{value or 'not recorded'}: ga_b raw s1" in told and "tr_s raw s1" in told


def test_runs_without_any_record_can_be_compared_among_themselves(scored):
    scored(tr_s={"test_set": {}}, ga_b={"test_set": {}})
    assert len(collect()) == 2
    assert resample_runs(collect(), REFERENCES, "strict", resamples=5)


def test_todays_text_is_not_the_one_that_was_scored(scored):
    """Else an interval of one text would stand beside the score of another."""
    scored(tr_s={}, ga_b={})
    frame = collect()
    assert resample_runs(frame, REFERENCES, "strict", resamples=5)
    told = refused(lambda: resample_runs(frame, REFERENCES[::-1], "strict", resamples=5))
    assert told.startswith(f"ga_b raw s1 of toy/smoke was scored on another test text ({THEIRS}) ")


def test_different_tokenisers_of_bleu(scored):
    scored(tr_s={}, ga_b={"signature": "nrefs:1|tok:zh"})
    told = refused(collect)
    assert "by different tokenisers (zh: ga_b raw s1; 13a: tr_s raw s1)" in told


@pytest.mark.parametrize("tokenizer", ["char", "13a"])
def test_resamples_are_by_the_runs_own_tokeniser(scored, tokenizer):
    scored(tr_s={"signature": f"tok:{tokenizer}"})
    frame = collect()
    drawn = resample_runs(frame, REFERENCES, "strict", resamples=5)["strict"]
    lines = frame["run"].iloc[0].read_sentences()["hypothesis"].tolist()
    theirs = BLEU(tokenize=tokenizer).corpus_score(lines, [REFERENCES]).score
    assert drawn.bleu[0] == pytest.approx(theirs)


@pytest.mark.parametrize("accounting", ["paper", "strict", "released", "per_sentence",
                                        "bits_per_char"])
def test_different_vocabularies_where_the_accounting_is_per_subword(scored, accounting):
    scored(tr_s={}, ga_b={"vocabulary": "v2"})
    frame = collect()
    uses = (lambda: models_table(frame, accounting), lambda: tables.table1(frame, accounting),
            lambda: resample_runs(frame, REFERENCES, accounting, resamples=5))
    for use in uses:
        if accounting in ("paper", "strict", "released"):
            assert "of different vocabularies have no common scale" in refused(use)
        else:
            use()


def test_different_numbers_of_samples(scored):
    """Of bounds of one kind; an exact likelihood has one sample and always fits."""
    scored(tr_s={}, ga_b={"samples": 50}, fl_s={"samples": 1000})
    frame = collect()
    told = refused(lambda: tables.table1(frame, "strict"))
    assert "at different numbers of samples K (" in told and "1000.0: fl_s raw s1" in told
    tables.table1(frame[frame["model"] != "fl_s"], "strict")


def test_other_data_sets_are_others(scored):
    scored(tr_s={})
    run = made_up_run("tr_s", 0.1, 1.0, references=REFERENCES, dataset="multi30k_de_en")
    metrics = json.loads(run.metrics.read_text())
    metrics["test_set"] |= {"references": "8" * 16, "sources": "9" * 16}
    run.metrics.write_text(json.dumps(metrics))
    assert len(collect()) == 2


def test_a_table_says_where_precisions_differ(scored):
    scored(tr_s={"precision": "bf16"}, ga_b={"precision": "fp32"})
    beside = tables.side_by_side(tables.table1(collect(), "strict"))
    assert beside["precision"].tolist() == ["bf16", "fp32"]


def test_a_table_of_one_precision_does_not(scored):
    scored(tr_s={"precision": "bf16"}, ga_b={"precision": "bf16"})
    table = tables.table1(collect(), "strict")
    assert set(table["precision"]) == {"bf16"}
    assert "precision" not in tables.side_by_side(table)
