"""Frozen models: the same answers as the models they are made of, in every precision offered."""

import pytest
import torch
from tiny import (
    AUTOREGRESSIVE,
    CTC,
    DAG,
    EVERY,
    INDEPENDENT,
    LATENT,
    MASKED,
    batch_of,
    model_of,
    ragged,
    sources_of,
    with_actnorms,
)

from lib import runtime
from lib.autoregressive import Transformer
from lib.decoding import frozen as inference
from lib.decoding import hypotheses
from lib.decoding.frozen import Product, freeze
from lib.decoding.refinement import refine
from lib.decoding.search import beam_search, greedy
from lib.errors import ConfigError

VOCABULARY = 11


@pytest.fixture
def sources():
    return sources_of([source for source, _ in ragged(9, VOCABULARY)])


EXACT = pytest.mark.usefixtures("float64")  # "fp32" is the model's own precision: here 64 bits


@EXACT
@EVERY
def test_in_its_own_precision_the_encoded_source_is_the_same(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    with torch.inference_mode():
        torch.testing.assert_close(freeze(model, "fp32").encode(*sources).states,
                                   model.encode(*sources).states, atol=1e-8, rtol=1e-8)


@EXACT
@pytest.mark.parametrize("architecture", [INDEPENDENT, DAG, CTC, MASKED], ids=lambda a: a.family)
def test_in_its_own_precision_the_searches_of_filling_models_are_the_same(architecture, sources):
    model = model_of(architecture, VOCABULARY)
    frozen = freeze(model, "fp32")
    settings = {INDEPENDENT: ["greedy"], CTC: ["greedy", "beam3"], MASKED: ["m2", "mT"],
                DAG: ["greedy", "lookahead", "viterbi", "beam3"]}[architecture] + ["sample"]
    assert isinstance(frozen.output, Product) and model.output is None
    with torch.inference_mode():
        assert hypotheses(frozen, *sources, settings) == hypotheses(model, *sources, settings)


@EXACT
@LATENT
def test_in_its_own_precision_latents_and_logits_are_the_same(architecture, sources):
    """Prior mean, posterior mean and states, over ragged masks; the flow's folded layers too."""
    model = with_actnorms(architecture, VOCABULARY)
    frozen = freeze(model, "fp32")
    real = torch.arange(12) < torch.tensor([4, 8, 12] * 3)[:, None]
    with torch.inference_mode():
        memory = model.encode(*sources)
        z, other = (m.prior(memory, 12, real).mean for m in (model, frozen))
        torch.testing.assert_close(other[real], z[real], atol=1e-8, rtol=1e-8)
        found = [m.decode(z, memory, real) for m in (model, frozen)]
        torch.testing.assert_close(found[1].states[real], found[0].states[real], atol=1e-8,
                                   rtol=1e-8)
        assert torch.equal(found[1].argmax()[real], found[0].argmax()[real])
        y = found[0].argmax().masked_fill(~real, 0)
        posteriors = [m.posterior(memory, y, real) for m in (model, frozen)]
        torch.testing.assert_close(posteriors[1].mean[real], posteriors[0].mean[real], atol=1e-8,
                                   rtol=1e-8)


@EXACT
@LATENT
def test_in_its_own_precision_the_log_probabilities_are_the_same(architecture):
    """The density direction of a frozen flow is the flow's own."""
    model = with_actnorms(architecture, VOCABULARY)
    batch = batch_of(ragged(6, VOCABULARY), 4)
    terms = [m.log_prob_terms(batch, 2, torch.Generator().manual_seed(0))
             for m in (model, freeze(model, "fp32"))]
    for name in ("log_p_y", "log_p_z", "log_q_z", "log_p_length"):
        torch.testing.assert_close(getattr(terms[1], name), getattr(terms[0], name), atol=1e-8,
                                   rtol=1e-8, msg=lambda told, name=name: f"{name}: {told}")


@EXACT
def test_in_its_own_precision_strings_have_the_same_probability():
    model, batch = model_of(AUTOREGRESSIVE, VOCABULARY), batch_of(ragged(6, VOCABULARY))
    with torch.inference_mode():
        torch.testing.assert_close(freeze(model, "fp32").log_prob_terms(batch).log_p_y,
                                   model.log_prob_terms(batch).log_p_y, atol=1e-8, rtol=1e-8)


@EXACT
def test_in_its_own_precision_search_finds_the_same(sources):
    model = model_of(AUTOREGRESSIVE, VOCABULARY)
    frozen = freeze(model, "fp32")
    assert greedy(frozen, *sources) == greedy(model, *sources)
    (words, scores), (expected, theirs) = (beam_search(m, *sources, width=4)
                                           for m in (frozen, model))
    assert words == expected
    assert len({tuple(w) for w in words}) > 3, "the model should say more than one thing"
    torch.testing.assert_close(scores, theirs, atol=1e-8, rtol=1e-8)


@EXACT
@LATENT
def test_in_its_own_precision_refinement_finds_the_same(architecture, sources):
    model = with_actnorms(architecture, VOCABULARY)
    expected = refine(model, *sources, [0, 1, 3])
    assert refine(freeze(model, "fp32"), *sources, [0, 1, 3]) == expected
    assert expected[0] != expected[3], "refinement should change something"


@pytest.mark.parametrize(("weights", "bound"), [("bf16", 0.02), ("int8", 0.03)])
def test_a_product_in_fewer_bits_is_near(weights, bound):
    weight, bias, x = torch.randn(48, 64), torch.randn(48), torch.randn(5, 7, 64)
    exact = x @ weight.T + bias
    for relu in (False, True):
        found = Product(weight, bias, weights, relu)(x).float()
        wanted = exact.relu() if relu else exact
        assert float((found - wanted).norm() / wanted.norm()) < bound
        assert float((found - wanted).abs().max()) > 1e-5, "these are fp32 weights"


def test_products_without_packed_weights_are_the_same(monkeypatch):
    """Where torch lacks the packed form, the plain product takes its place."""
    weight, bias, x = torch.randn(48, 64), torch.randn(48), torch.randn(3, 64)
    packed = Product(weight, bias, "bf16", relu=True)(x)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = Product(weight, bias, "bf16", relu=True)
    assert plain.kind == "plain"
    torch.testing.assert_close(plain(x).float(), packed.float(), atol=0.1, rtol=2e-2)


@pytest.mark.parametrize("weights", ["bf16", "int8"])
@EVERY
def test_fewer_bits_change_few_subwords(architecture, weights, sources):
    """At random weights nearly all logits are alike; still most subwords stay."""
    model = with_actnorms(architecture, VOCABULARY)
    with torch.no_grad():
        model.embedding.weight.mul_(4)  # clear winners, as in a trained model
    frozen = freeze(model, weights)
    if isinstance(model, Transformer):
        batch = batch_of(ragged(9, VOCABULARY))
        with torch.inference_mode():
            found = [m.log_prob_terms(batch).log_p_y for m in (model, frozen)]
        assert float((found[1] - found[0]).abs().mean() / found[0].abs().mean()) < 0.1
        return
    if not model.latents:
        setting = {INDEPENDENT: "greedy", MASKED: "m3"}.get(architecture, "beam2")
        rows = [hypotheses(m, *sources, [setting])[setting] for m in (model, frozen)]
    else:
        rows = [refine(m, *sources, [0], torch.full((9,), 8))[0] for m in (model, frozen)]
    same = [a == b for one, other in zip(*rows, strict=True)
            for a, b in zip(one, other, strict=False)]
    assert len(same) > 10 and sum(same) / len(same) > 0.8


@pytest.mark.parametrize("batch", [1, 3, 9])
def test_both_forms_of_attention_agree(batch, monkeypatch):
    q, k, v = torch.randn(3, batch, 2, 5, 8).to(torch.bfloat16).unbind(0)
    bias = torch.zeros(batch, 1, 1, 5).masked_fill_(torch.arange(5) > 2, -torch.inf)
    one = inference._attend(q, k, v, bias)
    monkeypatch.setattr(inference, "FUSED_BATCH", 0 if batch < 9 else 99)
    torch.testing.assert_close(inference._attend(q, k, v, bias), one, atol=3e-2, rtol=3e-2)


@EVERY
def test_the_model_itself_stays_as_it_is(architecture):
    model = model_of(architecture, VOCABULARY).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = freeze(model, "bf16")
    assert model.training and not frozen.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (frozen.decoding, frozen.multiple) == (model.decoding, model.multiple)


def test_auto_takes_what_the_hardware_has(monkeypatch):
    model = model_of(AUTOREGRESSIVE, VOCABULARY)
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(runtime, "has_fast_bf16", lambda where, fast=fast: fast)
        assert freeze(model).output.dtype == dtype


def test_unknown_weights_are_refused():
    with pytest.raises(ConfigError, match="unknown weights 'int4': auto, fp32, bf16, int8"):
        freeze(model_of(AUTOREGRESSIVE, VOCABULARY), "int4")
