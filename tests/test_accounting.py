"""What each accounting makes of hand-worked sentences."""

import numpy as np
import pandas as pd
import pytest
from made_up import scored_sentences

from lib.errors import ConfigError
from lib.likelihood import accounting


def test_released_of_an_exact_model_is_its_log_probability_per_padded_token():
    frame = scored_sentences(["x"] * 4, -np.arange(1.0, 5.0))
    numerator, denominator = accounting.likelihood_terms(frame, "released")
    assert numerator.sum() / denominator.sum() == pytest.approx(-(1 + 2 + 3 + 4) / 4 / 4)


def test_slack_is_what_the_last_tenfold_of_samples_raised_a_bound_by():
    """Two sentences of 4 and 6 tokens, bounds -10 and -20 that were -11 and -22.5 before."""
    frame = pd.DataFrame({
        "log_prob": [-10.0, -20.0], "log_p_length": [-1.0, -1.0], "n_tokens": [4, 6],
        "n_tokens_padded": [4, 8], "n_chars": [10, 18], "released_estimate": [-1.0, -1.0],
        "iw_bound_1": [-30.0, -40.0], "iw_bound_10": [-14.0, -25.0],
        "iw_bound_100": [-11.0, -22.5]})
    found = {name: accounting.bound_slack(frame, name) for name in accounting.ACCOUNTINGS}
    assert found == pytest.approx({"paper": 3.5 / 12, "strict": 3.5 / 10, "per_sentence": 3.5 / 2,
                                   "bits_per_char": 3.5 / np.log(2) / 28, "released": 0.0})
    fifty = frame.rename(columns={"iw_bound_100": "iw_bound_5"})  # 5 is a tenth of 50
    assert accounting.bound_slack(fifty, "per_sentence") == pytest.approx(3.5 / 2)
    exact = frame.drop(columns=[c for c in frame if c.startswith("iw_bound")])
    assert accounting.bound_slack(exact, "strict") == 0.0


def test_unknown_accounting_lists_those_there_are():
    with pytest.raises(ConfigError, match="choose one of paper, strict"):
        accounting.accounting_named("nats")
