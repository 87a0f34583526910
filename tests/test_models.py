"""The table of models: one size and protocol, and starting from a trained Transformer."""

import pytest
import torch
from tiny import (
    AUTOREGRESSIVE,
    EVERY,
    GAUSSIAN,
    LATENT,
    batch_of,
    model_of,
    ragged,
    sources_of,
)

from lib.config import MODELS, load_config
from lib.decoding import hypotheses
from lib.models import build, count_parameters, start_from

PARTS = {"gaussian": {"reconstruction", "kl", "length"}, "flow": {"reconstruction", "kl", "length"},
         "independent": {"nll", "length"}, "masked": {"nll", "length"},
         "dag": {"nll", "impossible"}, "ctc": {"nll", "impossible"}}


@pytest.mark.parametrize(("dataset", "scale", "vocabulary"), [
    ("toy", "smoke", 90), ("multi30k_de_en", "mini", 8000), ("iwslt16_de_en", "paper", 32_000),
    ("wmt14_en_de", "paper", 32_000)])
@pytest.mark.parametrize(("name", "like"), [
    ("na_b", "ga_b"), ("da_b", "ga_b"), ("dp_b", "ga_b"), ("ct_b", "ga_b"), ("md_b", "ga_b"),
    ("tr_d", "tr_s")])
def test_models_that_are_compared_have_one_size(name, like, dataset, scale, vocabulary):
    """Parameters within 10%; of Ga-B the encoder and the number of decoder layers, too."""
    own, other = (load_config(model, dataset, scale).architecture for model in (name, like))
    with torch.device("meta"):
        sizes = [count_parameters(build(a, vocabulary)) for a in (own, other)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
    shared = ["d_model", "d_filter", "heads"]
    shared += ["encoder_layers", "decoder_layers"] if like == "ga_b" else []
    assert [getattr(own, key) for key in shared] == [getattr(other, key) for key in shared]
    assert name != "tr_d" or own.decoder_layers == 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dataset", ["wmt14_en_de", "iwslt16_de_en"])
def test_shared_weights_are_counted_once(name, dataset):
    with torch.device("meta"):
        model = build(load_config(name, dataset, "paper").architecture, 32_000)
        larger = build(load_config(name, dataset, "paper").architecture, 33_000)
    difference = count_parameters(larger) - count_parameters(model)
    assert difference == 1_000 * model.architecture.d_model  # one matrix, no bias


def test_parameters_by_hand():
    """Tr-S shape: embedding + encoder and decoder layers of bias-free products and their norms."""
    d, f, v = 16, 32, 10
    norm = 2 * d
    encoder = 2 * (4 * d * d + d * f + f * d + f + d + 2 * norm) + norm
    decoder = 2 * (8 * d * d + d * f + f * d + f + d + 3 * norm) + norm
    without_bias = 2 * 2 * (f + d)
    found = count_parameters(build(AUTOREGRESSIVE, v))
    assert found == v * d + encoder + decoder - without_bias


@EVERY
def test_every_family_keeps_the_protocol(architecture):
    model = model_of(architecture, 9)
    batch = batch_of(ragged(5, 9), model.multiple)
    training = load_config("ga_b").training
    losses = model.loss_terms(batch, training, 0.5)
    assert set(losses) == {"loss", "tokens"} | PARTS.get(architecture.family, {"nll"})
    assert int(losses["tokens"]) == int(batch.target_tokens.sum())
    assert losses["loss"].requires_grad
    assert not any(v.requires_grad for k, v in losses.items() if k != "loss")
    terms = model.log_prob_terms(batch, 3, torch.Generator().manual_seed(0), 2)
    samples = 1 if model.likelihood == "exact" else 3
    for name in ("log_p_y", "log_p_z", "log_q_z"):
        assert getattr(terms, name).shape == (samples, 5), name
    assert terms.log_p_length.shape == (5,)
    assert (terms.log_p_length <= 0).all() and (terms.log_p_y < 0).all()
    setting = model.dev_setting(training)
    found = hypotheses(model, *sources_of([[3, 4], [5]]), [setting])
    assert len(found[setting]) == 2


@EVERY
def test_the_same_seed_builds_the_same_model(architecture):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build(architecture, 9).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# Starting from a Transformer -----------------------------------------------------------------

@LATENT
def test_start_copies_the_transformers_weights_and_nothing_else(architecture):
    """The Transformer has 2 decoder layers, p(y|z,x) 2, the posterior and the Gaussian prior 1."""
    transformer, model = model_of(AUTOREGRESSIVE, 9), model_of(architecture, 9)
    given = {name: value.clone() for name, value in transformer.state_dict().items()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    start_from(model, transformer.state_dict())
    after = model.state_dict()
    copied = {name for name, value in after.items() if not torch.equal(value, before[name])}
    stacks = ["decoder.", "posterior_decoder."]
    stacks += ["prior.decoder."] if architecture is GAUSSIAN else []
    expected = {n for n in given if n.startswith(("embedding.", "encoder."))}
    for stack in stacks:
        layers = 2 if stack == "decoder." else 1
        inner = {n.removeprefix("decoder.") for n in given if n.startswith("decoder.")}
        expected |= {stack + n for n in inner
                     if not n.startswith("layers.") or int(n.split(".")[1]) < layers}
    assert copied == expected
    d = AUTOREGRESSIVE.d_model
    for name in copied:
        source = "decoder." + name.split("decoder.", 1)[1] if "decoder." in name else name
        value = given[source]
        if name.endswith("decoder.source.weight") and name != "decoder.source.weight":
            value = value[:2 * d]  # keys and values of the first layer
        assert torch.equal(after[name], value), name
    assert all(torch.equal(given[n], v) for n, v in transformer.state_dict().items())


def test_start_gives_the_posterior_the_first_layers_source_attention():
    """The stacked keys and values are cut at a layer's border: layer 0 computes the same."""
    transformer, model = model_of(AUTOREGRESSIVE, 9), model_of(GAUSSIAN, 9)
    start_from(model, transformer.state_dict())
    states = torch.randn(2, 3, AUTOREGRESSIVE.d_model)
    (key, value), *_ = transformer.decoder.source(states)
    (own_key, own_value), = model.posterior_decoder.source(states)
    torch.testing.assert_close(own_key, key)
    torch.testing.assert_close(own_value, value)


def test_start_leaves_other_shapes_alone():
    transformer, model = model_of(AUTOREGRESSIVE, 9), model_of(GAUSSIAN, 11)
    before = model.embedding.weight.clone()
    start_from(model, transformer.state_dict())
    assert torch.equal(model.embedding.weight, before)
