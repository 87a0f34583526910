"""Our Transformer in CTranslate2 gives our own hypotheses and scores, on the trained toy Tr-S."""

import pytest
import torch
from made_up import shipped
from tiny import GAUSSIAN, model_of, sources_of

from benchmarks import ctranslate2 as outside
from lib.config import load_config
from lib.decoding.search import beam_search
from lib.errors import ConfigError
from lib.evaluation.scoring import load_run
from lib.paths import ROOT

INSTALLED = pytest.mark.skipif(not outside.is_installed(),
                               reason="CTranslate2 isn't installed: pip install -e '.[speed]'")


@pytest.fixture(scope="module")
def run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISCREPANCY_OUTPUTS", str(ROOT / "outputs"))
        shipped("tr_s")
        yield load_run(load_config("tr_s"))


@pytest.fixture(scope="module")
def sources(run):
    data = run.task.test
    return [data.source_ids[a:b].tolist()
            for a, b in zip(data.source_offsets[:60], data.source_offsets[1:61], strict=True)]


@pytest.fixture(scope="module")
def engine(run, tmp_path_factory):
    return outside.Engine(outside.export(run.model, tmp_path_factory.mktemp("exported")))


@INSTALLED
def test_greedy_search_is_the_same(run, sources, engine):
    found, scores = engine.translate(sources, width=1)
    expected, ours = beam_search(run.model, *sources_of(sources), width=1, length_penalty=0.0)
    assert found == expected
    torch.testing.assert_close(torch.tensor(scores), ours, atol=1e-3, rtol=1e-3)


@INSTALLED
def test_beam_search_is_as_good(run, sources, engine):
    """Hypotheses are finished by another rule there, so that a few may differ; then ours have at
    least its score, since we stop only where nothing better can come."""
    found, scores = engine.translate(sources, width=4)
    expected, ours = beam_search(run.model, *sources_of(sources), width=4, length_penalty=0.0)
    same = [one == other for one, other in zip(found, expected, strict=True)]
    assert sum(same) >= 0.95 * len(same)
    for alike, theirs, own in zip(same, scores, ours.tolist(), strict=True):
        assert own == pytest.approx(theirs, abs=2e-3) if alike else own > theirs - 2e-3


@INSTALLED
def test_a_given_length_is_kept(sources, engine):
    for length in (3, 9):
        found, _ = engine.translate(sources[:8], width=2, length=length)
        assert {len(words) for words in found} <= {length, length - 1}  # the last may be EOS


@INSTALLED
def test_a_latent_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="autoregressive models only: choose tr_s"):
        outside.export(model_of(GAUSSIAN, 8), tmp_path)


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(outside, "is_installed", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install .*speed"):
        outside.Engine(tmp_path)
