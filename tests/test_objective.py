"""The 2x2 of decoder and objective, from made-up runs whose effects are known."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from made_up import made_up_references, made_up_run
from matplotlib.text import Text

from analysis import objective
from analysis.systems import collect
from lib.errors import DataError

REFERENCES = made_up_references()
# model -> (share of wrong words, nats a token)
MADE = {"tr_s": (0.10, 1.0), "tr_b": (0.10, 1.0), "md_b": (0.20, 1.4), "na_b": (0.60, 2.5),
        "da_b": (0.20, 1.2), "dp_b": (0.30, 1.1), "ga_b": (0.40, 2.0), "ct_b": (0.15, 1.5)}


@pytest.fixture
def made(isolated):
    """The runs of one training text: those of `MADE` without some."""
    def make(*without):
        return collect([made_up_run(model, *how, parameters=50 if model == "tr_s" else 1000)
                        for model, how in MADE.items() if model not in without])
    return make


def table_of(frame):
    return objective.effects(frame, objective.resampled(frame, REFERENCES))


def test_each_effect_is_second_minus_first(made):
    table = table_of(made()).set_index(["first", "second"])
    assert list(table.index) == [("dp_b", "da_b"), ("md_b", "tr_b"), ("na_b", "da_b"),
                                 ("da_b", "tr_b"), ("na_b", "ct_b"), ("ct_b", "tr_b"),
                                 ("na_b", "ga_b")]
    for (first, second), row in table.iterrows():
        assert row["ll_delta"] == pytest.approx(MADE[first][1] - MADE[second][1], abs=0.02)
        assert row["ll_low"] < row["ll_delta"] < row["ll_high"]
        assert row["bleu_low"] < row["bleu_delta"] < row["bleu_high"]
        assert np.sign(row["bleu_delta"]) == np.sign(MADE[first][0] - MADE[second][0]), first
    assert table["order"].tolist() == ["disagree", *["agree"] * 6]


def test_seeds_are_averaged_and_named_on_their_own_side(made):
    runs = [*made()["run"], made_up_run("na_b", 0.6, 2.5, seed=2), made_up_run("tr_b", 0.1, 1.0,
                                                                             seed=2)]
    table = table_of(collect(runs)).set_index(["first", "second"])
    seeds = table[["first_seeds", "second_seeds"]].apply(tuple, axis=1)
    assert seeds["na_b", "da_b"] == (2, 1) and seeds["da_b", "tr_b"] == (1, 2)
    assert seeds["md_b", "tr_b"] == (1, 2) and seeds["dp_b", "da_b"] == (1, 1)


def test_the_transformer_is_the_one_of_da_s_size(made):
    assert objective.contrasted(made())[0] == "tr_b"  # tr_s has 50 parameters, the others 1,000
    assert objective.contrasted(pd.DataFrame({"model": [], "parameters": []}))[0] == "tr_b"


def test_a_model_that_is_missing_is_in_no_pair(made):
    frame = made("md_b")
    assert "md_b" not in set(table_of(frame)["first"])
    assert "in 1 of 1 pairs that change the objective alone" in objective.cause(table_of(frame))


def test_sentences_of_probability_0_leave_all_likelihoods_and_stay_in_bleu(made):
    frame = made()
    before = objective.resampled(frame, REFERENCES)
    run = frame.set_index("model").loc["da_b", "run"]
    sentences = pd.read_csv(run.sentences)
    sentences.loc[:4, "log_prob"] = -np.inf
    sentences.to_csv(run.sentences, index=False)
    assert objective.impossible(frame).sum() == 5
    after = objective.resampled(frame, REFERENCES)
    assert np.isfinite(after.likelihood_resampled).all()
    np.testing.assert_array_equal(after.bleu_resampled, before.bleu_resampled)
    kept = frame["run"][0].read_sentences()[5:]
    strict = (kept["log_prob"] + kept["log_p_length"]).sum() / kept["n_tokens"].sum()
    assert after.likelihood[0] == pytest.approx(strict)
    assert "5 test sentences have probability 0" in objective.limits(frame, table_of(frame))


def test_another_test_text_is_refused(made):
    frame = made().assign(references="another")
    with pytest.raises(DataError, match="another test text"):
        objective.resampled(frame, REFERENCES)


# ---- the sentence ----

def effects_table(**orders):
    """Made-up effects whose first contrasts of each factor have these orders."""
    rows = []
    for contrast in objective.CONTRASTS:
        given = orders.get(contrast.factor)
        if given:
            rows.append({"factor": contrast.factor, "change": contrast.change,
                         "first": contrast.first, "second": contrast.second.replace("tr", "tr_b")
                         if contrast.second == "tr" else contrast.second, "train_data": "raw",
                         "first_seeds": 1, "second_seeds": 1, "ll_delta": 0.5, "ll_low": 0.4,
                         "ll_high": 0.6, "bleu_delta": -2.0, "bleu_low": -3.0, "bleu_high": -1.0,
                         "order": given.pop(0), "over": "sentences only"})
    return pd.DataFrame(rows, columns=objective.EFFECT_COLUMNS)


A, D, U = "agree", "disagree", "undecided"


@pytest.mark.parametrize(("of_objective", "of_factorisation", "words"), [
    ([D, U], [A, A], r"the objective can part .* 1 of 2 pairs .*\(together in 0\) and in 0 of 2 "),
    ([D, D], [U, U], r"the objective can part .* 0 of 2 .*factorisation alone \(together in 0\)"),
    ([A, U], [D, D], r"the factorisation can part .* the objective alone \(together in 1\)"),
    ([A, A], [A, D], r"changing the factorisation can part"),
    ([D, D], [D, A], r"changing either can part .* 2 of 2 pairs .* objective alone .* 1 of 2"),
    ([A, A], [A, U], r"no such change was seen to part"),
    ([U, U], [A, A], r"undecided whether changing the objective parts .*2 .*\(together in 2\)"),
    ([U, U], [U, U], r"undecided whether changing the objective or the factorisation parts"),
    ([], [A, A], r"no answer yet: no controlled pair of the objective is there"),
    ([A], [A, A], r"no such change .* 0 of 1 pairs"),
    ([A, A], [A, A, A, D], r"the factorisation can part .*in 1 of 4 pairs .*\(together in 3\)"),
    ([], [], r"no controlled pair of the objective nor of the factorisation is there"),
])
def test_every_branch_of_the_answer(of_objective, of_factorisation, words):
    table = effects_table(objective=of_objective, factorisation=of_factorisation)
    told = objective.cause(table)
    assert re.search(words, told) and told.count(". ") == 0


def test_z_is_named_where_it_parts_the_two():
    table = effects_table(objective=[A, A], factorisation=[A, A], z=[D])
    assert "The pair that adds z" in objective.cause(table)
    table.loc[table["factor"] == "z", "order"] = A
    assert "The pair that adds z" not in objective.cause(table)


def test_another_text_has_its_own_answer():
    table = effects_table(objective=[A, A], factorisation=[A, A])
    assert "no answer yet" in objective.cause(table, "distilled")


# ---- what is shown ----

def test_the_2x2_puts_each_model_in_its_cell(made):
    frame = made()
    drawn = objective.resampled(frame, REFERENCES)
    cells = objective.two_by_two(frame, drawn).set_index("decoder")
    exact, elbo = cells["trained by exact likelihood"], cells["trained by ELBO"]
    for models, cell in ((("Tr-S", "Tr-B"), exact["autoregressive"]),
                         (("Md-B",), elbo["autoregressive"]),
                         (("Na-B", "Da-B", "Ct-B"), exact["factorised"]),
                         (("Ga-B", "Da-B, best path"), elbo["factorised"])):
        assert re.findall(r"(?:^|<br>)([^:]*):", cell) == sorted(models, key=cell.index)
    assert "LL −1.00 (exact)" in exact["autoregressive"]
    assert "(bound, K = 1)" in elbo["autoregressive"]
    best = next(part for part in elbo["factorised"].split("<br>") if "best path" in part)
    assert "(exact)" in best  # trained by a bound, scored with all paths
    folder = next(run for run in frame["run"] if run.model == "md_b")
    metrics = json.loads(folder.metrics.read_text()) | {"diagnostics": {"policy": -1.25}}
    folder.metrics.write_text(json.dumps(metrics))
    cells = objective.two_by_two(collect(frame["run"]), drawn).set_index("decoder")
    assert "(bound, K = 1; −1.25 in its own order)" in cells.loc["autoregressive",
                                                                  "trained by ELBO"]


def test_the_limits_name_the_seeds_and_the_unfinished_runs(made):
    frame = made()
    told = objective.limits(frame, table_of(frame))
    assert "7 of 7 rows rest on one seed" in told and "8 of 8 runs" in told
    frame = collect([*frame["run"], made_up_run("na_b", 0.6, 2.5, seed=2)])
    words = objective.limits(frame, table_of(frame))
    assert "7 of 7 rows have a model with one seed" in words and "rest on one seed" not in words


def test_the_figure_has_an_arrow_a_contrast_and_a_name_off_the_arrows_a_model(made):
    frame = collect([*made()["run"], *(made_up_run(model, *MADE[model], "distilled")
                                       for model in ("tr_b", "ga_b"))])  # no contrast: no panel
    drawn = objective.resampled(frame, REFERENCES)
    figure = objective.contrasts_figure(frame, drawn, objective.effects(frame, drawn))
    axes, = figure.axes
    assert axes.get_title(loc="left") == "trained on raw text"
    arrows = [text for text in axes.texts if text.arrow_patch and not text.get_text()]
    names = {text.get_text(): Text.get_window_extent(text) for text in axes.texts
             if text.get_text()}
    assert len(arrows) == 7
    assert set(names) == {"Tr-B", "Md-B", "Na-B", "Da-B", "Da-B, best path", "Ga-B", "Ct-B"}
    for arrow in arrows:
        ends = axes.transData.transform([arrow.xyann, arrow.xy])
        for place in np.linspace(*ends, 200):
            assert not any(box.contains(*place) for box in names.values())


def test_without_a_contrast_the_figure_is_empty(made):
    frame = made(*set(MADE) - {"tr_b"})
    drawn = objective.resampled(frame, REFERENCES)
    axes, = objective.contrasts_figure(frame, drawn, objective.effects(frame, drawn)).axes
    assert {text.get_text() for text in axes.texts} == {"Tr-B"}


def test_compact_tells_both_differences():
    shown = objective.compact(effects_table(objective=[A, D])).iloc[0]
    assert shown["LL"].replace("\N{NO-BREAK SPACE}", " ") == "+0.50 [+0.40, +0.60]"
    assert shown["BLEU"].replace("\N{NO-BREAK SPACE}", " ") == "−2.0 [−3.0, −1.0]"
    assert (shown["from → to"], shown["seeds"]) == ("Da-B, best path → Da-B", "1, 1")
