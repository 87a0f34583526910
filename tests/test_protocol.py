"""What a model says of itself: likelihood, latents, and the searches that it is offered for."""

import pytest

from lib.config import MODELS, load_config
from lib.decoding import Procedure
from lib.models import model_class


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_is_one_that_the_family_can_do(name):
    config = load_config(name)
    family = model_class(config.architecture)
    asked = {*family.settings(config.evaluation), *family.timed_settings(config.evaluation),
             family.dev_setting(config.training)}
    assert {Procedure.parse(setting).search for setting in asked} <= set(family.procedures)
    assert config.evaluation.headline in family.settings(config.evaluation)
    assert "sample" in family.procedures  # minimum Bayes risk is of any family


def test_a_likelihood_is_exact_or_a_bound():
    facts = {name: (model_class(load_config(name).architecture).likelihood,
                    model_class(load_config(name).architecture).latents) for name in MODELS}
    assert facts["tr_s"] == ("exact", False)
    assert facts["ga_b"] == facts["fl_s"] == ("bound", True)


def test_only_a_latent_model_is_initialised_from_data():
    for name, due in (("tr_s", {}), ("ga_b", {1: ["posterior"], 11: ["prior"]})):
        config = load_config(name, kl_start=10)
        family = model_class(config.architecture)
        assert {step: which for step in range(1, 30)
                if (which := family.initialisations(None, step, config.training))} == due
    together = load_config("ga_b", kl_start=0)
    assert model_class(together.architecture).initialisations(
        None, 1, together.training) == ["posterior", "prior"]
