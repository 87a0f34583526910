"""Settings: every file in params/ loads, and every mistake gets one message that names the fix."""

import dataclasses
import itertools
import json
import shutil

import pytest
import yaml
from sacrebleu.metrics import BLEU

from lib import config as module
from lib.config import (
    MODELS,
    SCALES,
    TOKENIZERS,
    Architecture,
    Evaluation,
    Training,
    datasets,
    family_of,
    load_config,
    load_dataset,
    parse_overrides,
)
from lib.errors import ConfigError
from lib.paths import PARAMS
from lib.training.checkpoints import changed_settings

ONE_OF_EACH_SIZE = {load_dataset(name).size: name for name in datasets()}


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A copy of params/ that a test may spoil."""
    shutil.copytree(PARAMS, tmp_path / "params")
    monkeypatch.setattr(module, "PARAMS", tmp_path / "params")
    return tmp_path / "params"


def spoil(path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_every_file_loads():
    for asked in itertools.product(MODELS, SCALES, ["iwslt", "wmt"]):
        model, scale, size = asked
        config = load_config(model, ONE_OF_EACH_SIZE[size], scale)
        assert (config.model, config.scale, config.dataset.size) == asked
        family = family_of(model)
        assert config.architecture.family == family, asked
        headline = config.evaluation.headline
        assert (headline[0] == "k") == (family in ("gaussian", "flow")), asked


@pytest.mark.parametrize("name", datasets())
def test_every_dataset_loads(name):
    dataset = load_dataset(name)
    assert dataset.name == name
    assert dataset.vocabulary["paper"] == 32_000 or dataset.corpus == "synthetic"
    assert dataset.teacher == ("tr_b" if dataset.size == "wmt" else "tr_s")  # as in the paper


def test_every_file_is_of_a_known_model_and_scale():
    found = {(p.parent.name, p.stem) for p in PARAMS.glob("*/*.yaml")}
    expected = {(s, m) for s in SCALES for m in MODELS}
    expected |= {("datasets", d) for d in datasets()} | {("small", "recipe"), ("long", "recipe")}
    assert found == expected


@pytest.mark.parametrize(("scale", "of"), [("small", "smoke"), ("long", "mini")])
def test_a_scale_has_one_recipe_for_every_model(scale, of):
    recipe = yaml.safe_load((PARAMS / scale / "recipe.yaml").read_text())["training"]
    for model in MODELS:
        training = load_config(model, scale=scale).training
        assert {name: getattr(training, name) for name in recipe} == recipe, model
        assert load_config(model, scale=scale).architecture == load_config(
            model, scale=of).architecture


def test_the_published_sizes():
    """Sections 4.2 and 4.3 of the paper: heads, layers, widths; Ga-B is smaller for IWSLT."""
    a = load_config("tr_b", "wmt14_en_de", "paper").architecture
    assert (a.heads, a.encoder_layers, a.decoder_layers, a.d_model, a.d_filter) == (
        8, 6, 6, 512, 2048)
    for size, widths in (("iwslt", (256, 256, 1024)), ("wmt", (512, 512, 2048))):
        a = load_config("ga_b", ONE_OF_EACH_SIZE[size], "paper").architecture
        assert (a.d_model, a.d_latent, a.d_filter) == widths
        assert (a.heads, a.encoder_layers, a.decoder_layers, a.posterior_layers) == (4, 6, 3, 3)
    a = load_config("fl_b", "wmt14_en_de", "paper").architecture
    couplings = [steps * len(plan) for steps, plan in zip(a.flow_steps, a.flow_plans, strict=True)]
    assert couplings == [12, 24, 16]
    a = load_config("fl_s", "wmt14_en_de", "paper").architecture
    assert [s * len(p) for s, p in zip(a.flow_steps, a.flow_plans, strict=True)] == [12, 12, 8]


@pytest.mark.parametrize("scale", SCALES)
def test_a_file_that_is_like_another_holds_what_differs(scale):
    marginal, best = (load_config(model, scale=scale) for model in ("da_b", "dp_b"))
    annealing = load_config("ga_b", scale=scale).training
    assert best == dataclasses.replace(marginal, model="dp_b", training=dataclasses.replace(
        marginal.training, objective="best_path", kl_start=annealing.kl_start,
        kl_ramp=annealing.kl_ramp))
    assert (marginal.objective, best.objective) == ("marginal", "best_path")


def test_the_objective_is_said_in_words():
    assert load_config("tr_s").objective == load_config("na_b").objective == "likelihood"
    assert load_config("ga_b").objective == load_config("md_b").objective == "ELBO"
    assert load_config("ct_b").objective == "marginal"


def test_overrides_replace_single_keys():
    plain = load_config("ga_b")
    changed = load_config("ga_b", steps=7, d_filter=32, samples=3, refinements=[0, 4], seed=5)
    assert changed.training == dataclasses.replace(plain.training, steps=7)
    assert changed.architecture == dataclasses.replace(plain.architecture, d_filter=32)
    assert changed.evaluation == dataclasses.replace(plain.evaluation, samples=3,
                                                     refinements=(0, 4))
    assert (changed.seed, changed.train_data, changed.scale) == (5, "raw", "smoke")


def test_a_whole_number_does_where_a_fraction_is_asked_for():
    training = load_config("tr_s", clip_norm=2).training
    assert training.clip_norm == 2.0 and isinstance(training.clip_norm, float)


def test_as_dict_is_plain_python():
    described = load_config("fl_s", "wmt14_en_de", "paper").as_dict()
    assert json.loads(json.dumps(described)) == described
    assert described["architecture"]["flow_steps"] == [4, 4, 4]
    assert set(described) == {"model", "scale", "seed", "train_data", "dataset", "architecture",
                              "training", "evaluation"}


def test_the_teacher_belongs_to_runs_on_distilled_data_alone():
    """A raw run stays the same run whoever teaches others."""
    assert "teacher" not in load_config("ga_b").as_dict()["dataset"]
    described = load_config("ga_b", train_data="distilled").as_dict()["dataset"]
    assert described["teacher"] == "tr_s"


# Mistakes ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("arguments", "message"), [
    ({"model": "tr-s"}, "unknown model 'tr-s': did you mean tr_s?"),
    ({"model": "gab"}, "unknown model 'gab': did you mean ga_b?"),
    ({"dataset": "multi30k"}, "unknown dataset 'multi30k': did you mean multi30k_de_en or"),
    ({"dataset": "wmt14_ende"}, "unknown dataset 'wmt14_ende': did you mean wmt14_en_de?"),
    ({"scale": "papers"}, "unknown scale 'papers': did you mean paper?"),
    ({"train_data": "destilled"}, "unknown train_data 'destilled': did you mean distilled?"),
    ({"stepz": 3}, "unknown parameter 'stepz': did you mean steps?"),
    ({"learningrate": 0.1}, "unknown parameter 'learningrate': did you mean learning_rate?"),
    ({"model": "xyz"}, "unknown model 'xyz': known: tr_s, tr_b"),
    ({"precision": "fp64"}, "unknown precision 'fp64': did you mean fp32?"),
    ({"headline": "beam5"}, "unknown headline 'beam5': did you mean beam4?"),
    ({"start_from": "tr"}, "unknown start_from 'tr': did you mean tr_"),
    ({"steps": "400"}, "steps = '400' must be of type int"),
    ({"steps": 400.0}, "steps = 400.0 must be of type int"),
    ({"steps": True}, "steps = True must be of type int"),
    ({"learning_rate": "1e-4"}, "must be of type float (YAML reads 1e-4 as text: write 1.0e-4)"),
    ({"refinements": 4}, "refinements = 4: a list is needed"),
    ({"refinements": [1, "x"]}, "refinements = 'x' must be of type int"),
    ({"steps": 0}, "steps = 0 must be 1 or more"),
    ({"kl_start": -1}, "kl_start = -1 must be 0 or more"),
    ({"dropout": 1.0}, "dropout = 1.0 lies outside [0, 1)"),
    ({"dropout": float("nan")}, "dropout = nan lies outside [0, 1)"),
    ({"learning_rate": 0.0}, "learning_rate = 0.0 must be above 0"),
    ({"posterior_penalty": float("nan")}, "posterior_penalty = nan must be 0 or more"),
    ({"length_penalty": -1.0}, "length_penalty = -1.0 must be 0 or more"),
    ({"adam_betas": [0.9]}, "two numbers in [0, 1)"),
    ({"samples": 0}, "samples = 0 must be 1 or more"),
    ({"refinements": [0, -1]}, "steps can't be negative"),
    ({"heads": 3}, "d_model = 64 is not a multiple of heads = 3"),
    ({"heads": 0}, "heads = 0 must be 1 or more"),
    ({"model": "da_b", "upsampling": 1}, "upsampling = 1: for family = dag it must be 2 or more"),
    ({"model": "ct_b", "upsampling": 0}, "upsampling = 0: for family = ctc it must be 1 or more"),
    ({"upsampling": 4}, "upsampling = 4: for family = autoregressive it must be 0"),
    ({"decoder_d_filter": 4}, "decoder_d_filter = 4 doesn't fit family = autoregressive"),
    ({"model": "na_b", "decoder_d_filter": -1}, "decoder_d_filter = -1 must be 0 or more"),
    ({"model": "da_b", "objective": "best"}, "objective = 'best': family dag has marginal | best_"),
    ({"objective": "marginal"}, "'marginal': family autoregressive has no choice: leave it out"),
    ({"model": "ct_b", "objective": "best_path"}, "'best_path': family ctc has marginal"),
    ({"model": "md_b", "label_smoothing": 0.1}, "label_smoothing = 0.1: family masked sums over"),
    ({"model": "md_b", "unmaskings": [0]}, "unmaskings = (0,): 1 step or more"),
    ({"seed": -1}, "seed = -1 must be a whole number, 0 or more"),
    ({"seed": 2**63}, "seed = 9223372036854775808 must be a whole number, 0 or more and below"),
    ({"seed": True}, "seed = True must be a whole number, 0 or more"),
    ({"model": "fl_s", "flow_steps": [1, 1]}, "must name the same one to three levels"),
    ({"model": "fl_s", "flow_steps": [1, -1, 1]}, "flow_steps"),
    ({"model": "fl_s", "flow_plans": ["cat", "cat", "cat"]}, "no t on the third level"),
    ({"model": "fl_s", "flow_plans": ["cxt", "cat", "ca"]},
     "'cxt' on level 1; use the letters c, a and t"),
    ({"model": "fl_s", "d_latent": 48}, "d_latent = 48 must be a multiple of 32"),
    ({"model": "fl_s", "flow_heads": 0}, "flow_heads = 0 must be 1 or more"),
    ({"model": "fl_s", "flow_heads": 3}, "of 2 x flow_heads = 6"),
    ({"model": "fl_s", "posterior_layers": 0}, "posterior_layers = 0 must be 1 or more"),
])
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(ConfigError) as caught:
        load_config(**{"model": "tr_s", **arguments})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_of_what_is_named_besides_are_refused():
    run = "tr_s", "toy", "smoke", 1, "raw"
    for name, value in zip(("model", "dataset", "scale", "seed", "train_data"), run, strict=True):
        with pytest.raises(ConfigError, match=f"overrides name {name}, which has an option of its"):
            load_config(*run, **{name: value})
    assert load_config("tr_s", "toy", seed=2).seed == 2


@pytest.mark.parametrize(("old", "new", "message"), [
    ("  steps:", "  step:", "params/smoke/tr_s.yaml, training: unknown parameter 'step': did you "),
    ("learning_rate: ", "learning_rate: 1e-4 #", "write 1.0e-4"),
    ("d_model: 64", "d_model: 63", "params/smoke/tr_s.yaml, architecture: d_model = 63"),
    ("  d_model: 64", "  # d_model: 64", "architecture: missing d_model"),
    ("training:", "trainings:", "unknown section 'trainings': did you mean training?"),
    ("training:", "training: 5\nevaluations:", "training"),
    ("training:", "training: [", "tr_s.yaml is not valid YAML"),
    ("training:", "like: tr_z\ntraining:", "params/smoke/tr_s.yaml: unknown like 'tr_z'"),
    ("training:", "like: tr_s\ntraining:", "unknown like 'tr_s': did you mean tr_"),
])
def test_a_mistake_in_a_file_names_the_file(params, old, new, message):
    spoil(params / "smoke" / "tr_s.yaml", old, new)
    with pytest.raises(ConfigError) as caught:
        load_config("tr_s")
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "architecture\n"])
def test_a_file_without_keys_is_refused(params, text):
    (params / "smoke" / "tr_s.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"tr_s.yaml must hold keys and values"):
        load_config("tr_s")


@pytest.mark.parametrize("section", ["architecture", "training", "evaluation", "iwslt"])
def test_a_section_without_keys_is_refused(params, section):
    path = params / "smoke" / "tr_s.yaml"
    loaded = {**yaml.safe_load(path.read_text()), section: [1, 2]}
    path.write_text(yaml.safe_dump(loaded))
    with pytest.raises(ConfigError, match=rf"smoke/tr_s.yaml: {section} must hold keys and values"):
        load_config("tr_s")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("corpus: synthetic", "corpus: syntetic", "did you mean synthetic?"),
    ("  mini: 512", "  mini: many", "for scale mini (found 'many')"),
    ("  mini: 512", "  mini: 4", "8 or more, for scale mini (found 4)"),
    ("max_tokens: 64", "max_tokens: 0", "dataset toy: max_tokens = 0 must be 1 or more"),
    ("lowercase: false", "lowercase: 0", "lowercase = 0 must be of type bool"),
    ("train: [train]", "train: train", "train = 'train': a list is needed"),
    ("size: iwslt", "sice: iwslt", "unknown parameter 'sice': did you mean size?"),
    ("teacher: tr_s", "teacher: ga_b", "dataset toy: unknown teacher 'ga_b': did you mean tr_b?"),
    ("target: qab", "target: no", "target = False must be of type str (YAML takes no, yes, on, "),
    ("dev: dev", "dev: 2013", "dev = 2013 must be of type str (YAML takes no, yes, on, off, numb"),
    ("dev: dev", "dev: 2013-01-02", "and dates for such: quote it)"),
    ("train: [train]", "train: [on]", "train = True must be of type str"),
    ("name: toy", "name: toys", "params/datasets/toy.yaml has name: toys, and would write into"),
    ("tokenizer: null", "tokenizer: flores200", "unknown tokenizer 'flores200'"),
    ("tokenizer: null", "tokenizer: no", "tokenizer = False must be of type str"),
    ("size: iwslt", "size: [", "toy.yaml is not valid YAML: "),
])
def test_a_mistake_in_a_dataset_is_named(params, old, new, message):
    spoil(params / "datasets" / "toy.yaml", old, new)
    with pytest.raises(ConfigError) as caught:
        load_dataset("toy")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_in_another_encoding_is_named(params):
    path = params / "datasets" / "toy.yaml"
    path.write_bytes(path.read_bytes() + "# für".encode("latin1"))
    with pytest.raises(ConfigError, match="toy.yaml is not UTF-8 .byte 0xfc"):
        load_dataset("toy")


# BLEU's tokeniser ----------------------------------------------------------------------------

def test_tokenisers_are_sacrebleus_without_those_that_download_a_model():
    downloading = {"spm", "flores101", "flores200", "spBLEU-1K"}
    assert set(TOKENIZERS) == set(BLEU.TOKENIZERS) - downloading


@pytest.mark.parametrize(("target", "asked", "expected"), [
    ("en", None, "13a"), ("zh", None, "zh"), ("zh_cn", None, "zh"), ("zh-Hans", None, "zh"),
    ("ZH", None, "zh"), ("ja", None, "ja-mecab"), ("ko", None, "ko-mecab"), ("qab", None, "13a"),
    ("en", "char", "char"), ("zh", "13a", "13a"), ("jam", None, "13a"),
])
def test_the_tokeniser_follows_the_target_language(monkeypatch, target, asked, expected):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    found = dataclasses.replace(load_dataset("toy"), target=target, tokenizer=asked)
    assert found.bleu_tokenizer == expected


def test_a_tokeniser_that_is_not_installed_is_never_replaced_in_silence(monkeypatch):
    """Whether it was asked for or follows from the language."""
    toy = load_dataset("toy")
    monkeypatch.setattr("importlib.util.find_spec",
                        lambda name: name if name == "sacrebleu" else None)
    for changes in ({"tokenizer": "ja-mecab"}, {"target": "ja"}):
        with pytest.raises(ConfigError, match=r"needs a package: pip install .sacrebleu\[ja\]"):
            dataclasses.replace(toy, **changes)
    assert dataclasses.replace(toy, target="ja", tokenizer="char").bleu_tokenizer == "char"


def test_a_tokeniser_belongs_to_the_settings_where_it_is_not_the_usual_one():
    """So that a run that began with 13a doesn't go on with another scale of dev BLEU."""
    config = load_config("tr_s")
    assert "tokenizer" not in config.as_dict()["dataset"]
    chinese = dataclasses.replace(config, dataset=dataclasses.replace(config.dataset, target="zh"))
    assert chinese.as_dict()["dataset"]["tokenizer"] == "zh"
    older = chinese.as_dict()
    del older["dataset"]["tokenizer"]
    assert changed_settings(chinese.as_dict(), older) == ["dataset.tokenizer"]


# Overrides as text ---------------------------------------------------------------------------

@pytest.mark.parametrize(("text", "expected"), [
    ("", {}), ("{}", {}), ('{"steps": 20, "learning_rate": 1e-4}',
                           {"steps": 20, "learning_rate": 0.0001}),
    ("{steps: 20}", {"steps": 20}), ("steps: 20", {"steps": 20}),
])
def test_overrides_are_json_or_yaml(text, expected):
    assert parse_overrides(text) == expected


@pytest.mark.parametrize("text", ["{steps: 20", "[1]", "20", "steps", "{1: 2}", "a: b: c", "\t- x"])
def test_overrides_without_names_and_values_are_one_line(text):
    with pytest.raises(ConfigError, match="^overrides ") as caught:
        parse_overrides(text)
    assert "\n" not in str(caught.value)


def test_the_published_size_of_a_dataset_is_taken(params):
    path = params / "paper" / "tr_s.yaml"
    path.write_text(path.read_text() + "\niwslt:\n  training: {dropout: 0.3}\n"
                                       "wmt:\n  architecture: {d_filter: 512}\n")
    small, large = (load_config("tr_s", ONE_OF_EACH_SIZE[s], "paper") for s in ("iwslt", "wmt"))
    assert (small.training.dropout, large.training.dropout) == (0.3, 0.1)
    assert (small.architecture.d_filter, large.architecture.d_filter) == (1024, 512)


def test_an_override_reaches_every_section_that_has_it():
    names = [f.name for cls in (Architecture, Training, Evaluation)
             for f in dataclasses.fields(cls)]
    assert {n for n in names if names.count(n) > 1} == {"batch_tokens"}
    config = load_config("tr_s", batch_tokens=123)
    assert config.training.batch_tokens == config.evaluation.batch_tokens == 123
