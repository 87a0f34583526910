"""Validated, frozen settings: every constant of a run comes from params/ and passes here."""

import argparse
import dataclasses
import difflib
import functools
import importlib.util
import inspect
import json
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lib.errors import ConfigError, check_least
from lib.paths import PARAMS

__all__ = [
    "FAMILIES", "LATENT", "MODELS", "SCALES", "SECTIONS", "TEACHERS", "TOKENIZERS", "Architecture",
    "Config", "Dataset", "Evaluation", "Training", "build", "config_of", "datasets", "family_of",
    "load_config", "load_dataset", "model_name", "parse_overrides", "read_yaml", "run_arguments",
    "unknown",
]

MODELS = ("tr_s", "tr_b", "tr_l", "ga_b", "ga_l", "fl_s", "fl_b", "fl_l",
          "tr_d", "na_b", "da_b", "dp_b", "ct_b", "md_b")
SCALES = ("smoke", "small", "mini", "long", "paper")
OBJECTIVES = {"dag": ("marginal", "best_path"), "ctc": ("marginal",)}  # families with paths
OF_THE_PAPER = ("autoregressive", "gaussian", "flow")
TOKENIZERS = ("13a", "char", "intl", "ja-mecab", "ko-mecab", "none", "zh")
"""SacreBLEU's tokenisers, without those that download a model."""
OF_LANGUAGE = {"zh": "zh", "zho": "zh", "cmn": "zh", "ja": "ja-mecab", "jpn": "ja-mecab",
               "ko": "ko-mecab", "kor": "ko-mecab"}
PACKAGES = {"ja-mecab": ("MeCab", "sacrebleu[ja]"), "ko-mecab": ("mecab_ko", "sacrebleu[ko]")}
TEACHERS = ("tr_s", "tr_b", "tr_l")  # models with a beam search
FAMILIES = {"tr": "autoregressive", "ga": "gaussian", "fl": "flow", "na": "independent",
            "da": "dag", "ct": "ctc", "md": "masked"}
"""How a model's name begins -> its family, in the order of every table and figure."""
LATENT = ("gaussian", "flow")
"""The families with continuous latent variables."""
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where there is one, is faster
BEST_PATH = "dp"  # how the name of a DAG trained on its best path begins, an objective of its own


def family_of(model: str) -> str:
    """The family of a model, by its name: "ga_b" -> "gaussian"."""
    start = model.partition("_")[0]
    return FAMILIES["da" if start == BEST_PATH else start]


def model_name(model: str) -> str:
    """A model's name as readers know it, "tr_s" -> "Tr-S"; any other name as it is."""
    start, _, size = model.partition("_")
    if start == BEST_PATH:
        return f"Da-{size.upper()}, best path"
    return f"{start.capitalize()}-{size.upper()}" if start in FAMILIES else model


@dataclass(frozen=True)
class Architecture:
    """Sizes of one model (sections 4.2 and 4.3 of the paper; its params/ file says more)."""

    family: str  # autoregressive | gaussian | flow | independent | dag | ctc | masked
    d_model: int  # width of embeddings, source encoder and decoders
    d_filter: int  # width inside the feed-forward blocks
    heads: int
    encoder_layers: int
    decoder_layers: int
    d_latent: int = 0  # channels of z per position; a multiple of 32 for a flow
    posterior_layers: int = 0  # layers of q(z|y,x), and of the Gaussian prior
    flow_steps: tuple[int, ...] = ()  # flow steps a level
    flow_plans: tuple[str, ...] = ("cat", "cat", "ca")  # splits of one step, a level
    flow_d_filter: int = 0  # feed-forward width inside the couplings
    flow_heads: int = 0  # attention heads inside the couplings
    decoder_d_filter: int = 0  # feed-forward width of the decoder alone; 0: d_filter
    upsampling: int = 0  # lambda: vertices of a graph, or frames, for each source subword

    def __post_init__(self):
        _choice(self, "family", tuple(FAMILIES.values()))
        check_least(self, d_model=1, d_filter=1, heads=1, encoder_layers=1, decoder_layers=1,
                    decoder_d_filter=0)
        if self.d_model % self.heads:
            raise ConfigError(f"d_model = {self.d_model} is not a multiple of heads = {self.heads}")
        least = {"dag": 2, "ctc": 1}.get(self.family)  # a graph has a first and a last vertex
        if (self.upsampling < least) if least else self.upsampling:
            needed = f"{least} or more" if least else "0"
            raise ConfigError(f"upsampling = {self.upsampling}: for family = {self.family} it must "
                              f"be {needed}")
        if self.decoder_d_filter and self.family in OF_THE_PAPER:
            raise ConfigError(f"decoder_d_filter = {self.decoder_d_filter} doesn't fit family = "
                              f"{self.family}: d_filter is that of all its layers")
        if self.family in LATENT:
            check_least(self, d_latent=1, posterior_layers=1)
        if self.family == "flow":
            self._check_flow()

    def _check_flow(self):
        check_least(self, flow_d_filter=1, flow_heads=1)
        if len(self.flow_steps) != len(self.flow_plans) or not 1 <= len(self.flow_steps) <= 3:
            raise ConfigError(
                f"flow_steps {self.flow_steps} and flow_plans {self.flow_plans} must name the same "
                "one to three levels (targets are padded to a multiple of 4 = two squeezes)")
        if min(self.flow_steps) < 1:
            raise ConfigError(f"flow_steps = {self.flow_steps}: 1 or more on each level")
        for level, plan in enumerate(self.flow_plans):
            if not plan or set(plan) - set("cat") or (level == 2 and "t" in plan):
                raise ConfigError(f"flow_plans: '{plan}' on level {level + 1}; use the letters c, "
                                  "a and t, and no t on the third level (its length can be odd)")
        if self.d_latent % 32 or (self.d_latent // 2) % self.flow_heads:
            raise ConfigError(f"d_latent = {self.d_latent} must be a multiple of 32 (channels of "
                              "an invertible 1x1 head) and of 2 x flow_heads = "
                              f"{2 * self.flow_heads}")


@dataclass(frozen=True)
class Training:
    """The recipe of one run; tokens are target subwords with padding."""

    steps: int  # optimiser steps at most
    batch_tokens: int  # tokens a batch
    learning_rate: float  # peak
    warmup_steps: int  # linear warm-up, then inverse square root
    dropout: float
    validate_every: int  # steps between validations and checkpoints
    label_smoothing: float = 0.0
    objective: str = ""  # dag: marginal | best_path; ctc: marginal; others have no choice
    adam_betas: tuple[float, ...] = (0.9, 0.98)
    adam_epsilon: float = 1e-9
    clip_norm: float = 1.0  # global gradient norm
    average: float = 0.0  # decay of the moving average of weights that is evaluated; 0 = none
    kl_start: int = 0  # steps with KL weight 0
    kl_ramp: int = 0  # then linear to 1 over so many steps
    posterior_penalty: float = 0.0  # alpha of KL[q || N(0, I)]
    prior_penalty: float = 0.0  # alpha of log p(z|x) - log N(z; 0, I), under the KL's weight too
    posterior_word_dropout: float = 0.0  # share of target embeddings that q does without
    rate_restarts: bool = False  # start the learning rate's schedule again when the KL enters
    prior_keeps_pace: bool = False  # below KL weight 1, give the prior its full gradient
    start_from: str = ""  # model whose encoder, embeddings and decoder weights to start from
    dev_sentences: int = 1000  # dev pairs scored at a validation
    dev_samples: int = 4  # importance samples a dev sentence
    dev_refinement: int = 1  # delta-posterior steps before dev BLEU
    patience: int = 0  # validations without better dev BLEU or LL before stopping; 0 = never
    accumulate: int = 1  # batches a step
    precision: str = "auto"  # auto (bf16 where the hardware has it) | bf16 | fp32
    graphs: bool = True  # on one GPU: batches of few shapes, steps through CUDA graphs
    compile: bool = False  # on a GPU: compiled layers, for runs that repay the minutes it takes

    def __post_init__(self):
        _choice(self, "precision", ("auto", "bf16", "fp32"))
        check_least(self, steps=1, batch_tokens=1, validate_every=1, dev_sentences=1, dev_samples=1,
                    accumulate=1, warmup_steps=1, kl_start=0, kl_ramp=0, patience=0,
                    dev_refinement=0, posterior_penalty=0, prior_penalty=0)
        for name in ("dropout", "label_smoothing", "average", "posterior_word_dropout"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"{name} = {value} lies outside [0, 1)")
        for name in ("learning_rate", "clip_norm", "adam_epsilon"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} = {getattr(self, name)} must be above 0")
        if len(self.adam_betas) != 2 or not all(0 <= b < 1 for b in self.adam_betas):
            raise ConfigError(f"adam_betas = {self.adam_betas}: two numbers in [0, 1)")
        if self.start_from and self.start_from not in MODELS:
            raise ConfigError(unknown("start_from", self.start_from, MODELS))


@dataclass(frozen=True)
class Evaluation:
    """How a trained model is scored on the test set."""

    samples: int = 1000  # importance samples a sentence (K)
    beam: int = 4
    length_penalty: float = 0.6  # alpha of Wu et al. (2016), equation 14
    refinements: tuple[int, ...] = (0, 1, 2, 4, 8)  # delta-posterior steps to report
    unmaskings: tuple[int, ...] = (1, 4, 8)  # unmasking steps to report, beside one a position
    mbr_samples: int = 16  # draws of minimum-Bayes-risk decoding (chrF), reported beside; 0: none
    headline: str = "k4"  # decoding setting whose hypotheses and BLEU are the run's own
    batch_tokens: int = 4096  # target tokens scored at once

    def __post_init__(self):
        check_least(self, samples=1, beam=1, batch_tokens=1, length_penalty=0, mbr_samples=0)
        if self.mbr_samples == 1:
            raise ConfigError("mbr_samples = 1: one draw has no others to agree with; give 2 or "
                              "more, or 0 for none")
        if any(k < 0 for k in self.refinements):
            raise ConfigError(f"refinements = {self.refinements}: steps can't be negative")
        if any(steps < 1 for steps in self.unmaskings):
            raise ConfigError(f"unmaskings = {self.unmaskings}: 1 step or more")
        allowed = ("greedy", f"beam{self.beam}", *(f"k{k}" for k in self.refinements),
                   "lookahead", "viterbi", *(f"m{steps}" for steps in self.unmaskings), "mT")
        _choice(self, "headline", allowed)


@dataclass(frozen=True)
class Dataset:
    """One translation task; see params/datasets/."""

    name: str
    source: str  # language code
    target: str
    corpus: str  # synthetic | files | multi30k | iwslt16 | wmt14 | wmt16
    folder: str  # below the data folder
    train: tuple[str, ...]  # file stems or set names
    dev: str
    test: str
    lowercase: bool
    subword: str  # bpe | word
    vocabulary: dict  # scale -> subwords in the joint vocabulary
    max_tokens: int  # training pairs with more subwords on either side are left out
    size: str  # iwslt | wmt: which of the published sizes scale `paper` takes
    published: str | None = None  # the dataset's name in the paper's tables
    teacher: str = "tr_s"  # whose translation of the training set distilled models learn from
    tokenizer: str | None = None  # sacreBLEU's, for BLEU; None: by the target language
    options: dict = field(default_factory=dict)  # what only this corpus has

    def __post_init__(self):
        _choice(self, "corpus", ("synthetic", "files", "multi30k", "iwslt16", "wmt14", "wmt16"))
        _choice(self, "subword", ("bpe", "word"))
        _choice(self, "size", ("iwslt", "wmt"))
        _choice(self, "teacher", TEACHERS)
        if self.tokenizer is not None:
            _choice(self, "tokenizer", TOKENIZERS)
        module, package = PACKAGES.get(self.bleu_tokenizer, ("sacrebleu", "sacrebleu"))
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"dataset {self.name}: tokenizer = {self.bleu_tokenizer} needs a "
                              f"package: pip install '{package}', or choose another")
        check_least(self, max_tokens=1)
        for scale in SCALES:
            size = self.vocabulary.get(scale)
            if not isinstance(size, int) or size < 8:
                raise ConfigError(f"vocabulary of dataset {self.name}: give a whole number of "
                                  f"subwords, 8 or more, for scale {scale} (found {size!r})")

    @property
    def bleu_tokenizer(self) -> str:
        """SacreBLEU's tokeniser for the target: `tokenizer`, or that of the language (Chinese,
        Japanese, Korean), else 13a.
        """
        return self.tokenizer or OF_LANGUAGE.get(re.split("[-_]", self.target.lower())[0], "13a")


@dataclass(frozen=True)
class Config:
    """Everything that decides a run's result."""

    model: str
    scale: str
    seed: int
    train_data: str
    dataset: Dataset
    architecture: Architecture
    training: Training
    evaluation: Evaluation

    def __post_init__(self):
        family, training = self.architecture.family, self.training
        objectives = OBJECTIVES.get(family, ("",))
        if training.objective not in objectives:
            choice = " | ".join(objectives) or "no choice: leave it out"
            raise ConfigError(f"objective = '{training.objective}': family {family} has {choice}")
        if training.label_smoothing and family not in OF_THE_PAPER:
            raise ConfigError(f"label_smoothing = {training.label_smoothing}: family {family} sums "
                              "over paths or orders, which smoothed terms don't make a bound of")

    @property
    def objective(self) -> str:
        """What training minimises, in words."""
        own = {"gaussian": "ELBO", "flow": "ELBO", "masked": "ELBO"}
        return self.training.objective or own.get(self.architecture.family, "likelihood")

    def as_dict(self) -> dict:
        """Plain Python, as written to config.json: the teacher and the tokeniser (if not 13a) where
        they decide something, the vocabulary's size at this scale alone.
        """
        described = json.loads(json.dumps(dataclasses.asdict(self)))
        described["dataset"]["vocabulary"] = {self.scale: self.dataset.vocabulary[self.scale]}
        described["dataset"]["tokenizer"] = self.dataset.bleu_tokenizer
        if self.dataset.bleu_tokenizer == "13a":
            del described["dataset"]["tokenizer"]
        if self.train_data == "raw":
            del described["dataset"]["teacher"]
        return described


SECTIONS = {"architecture": Architecture, "training": Training, "evaluation": Evaluation}
RECIPE = "recipe.yaml"  # of a scale that takes its models from another: what is the same for all


def unknown(kind: str, name: str, known) -> str:
    """The message for a name that isn't among the known ones, with the nearest of those."""
    begun = [one for one in known if name and one.startswith(str(name))]
    near = begun or difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown {kind} '{name}': {hint}known: {', '.join(known)}"


def _choice(owner, name: str, allowed) -> None:
    if getattr(owner, name) not in allowed:
        raise ConfigError(unknown(name, getattr(owner, name), allowed))


def _coerce(value, annotation, where: str):
    """The value in the annotated type, or a message that names both."""
    origin = typing.get_origin(annotation)
    if origin is types.UnionType:
        if value is None:
            return None
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
        return _coerce(value, annotation, where)
    if origin is tuple:
        inner = typing.get_args(annotation)[0]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} = {value!r}: a list is needed")
        return tuple(_coerce(v, inner, where) for v in value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        hint = ""
        if annotation is float and isinstance(value, str):
            hint = " (YAML reads 1e-4 as text: write 1.0e-4)"
        elif annotation is str:
            hint = " (YAML takes no, yes, on, off, numbers and dates for such: quote it)"
        raise ConfigError(f"{where} = {value!r} must be of type {annotation.__name__}{hint}")
    return value


def build(cls, values: dict, where: str):
    """The dataclass `cls` of these values, checked; `where` opens every message.

    Errors: ConfigError for an unknown or missing name, a wrong type or a value out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise ConfigError(f"{where}: {unknown('parameter', name, fields)}")
    missing = [n for n, f in fields.items() if n not in values
               and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    hints = typing.get_type_hints(cls)
    values = {n: _coerce(v, hints[n], f"{where}: {n}") for n, v in values.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def read_yaml(path: Path) -> dict:
    """What a file of params/ holds. Errors: ConfigError where it isn't YAML of keys and values."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name} is not valid YAML: {_one_line(error)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name} is not UTF-8 (byte {error.object[error.start]:#04x} at "
                          f"place {error.start + 1}): save it as UTF-8") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path.name} must hold keys and values")
    return loaded


def _one_line(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the lines that YAML shows below it."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"


def parse_overrides(text: str) -> dict:
    """Single settings of params/ given as text, JSON or YAML: '{"steps": 20}' or '{steps: 20}'.

    Errors: ConfigError, in one line, for text that holds no names and values.
    """
    try:
        overrides = json.loads(text)
    except ValueError:
        try:
            overrides = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"overrides {text!r} can't be read: {_one_line(error)}") from None
    overrides = {} if overrides is None else overrides
    if not isinstance(overrides, dict) or not all(isinstance(name, str) for name in overrides):
        raise ConfigError(f"overrides {text!r} must hold names and values, such as "
                          "'{steps: 20, dropout: 0.1}'")
    return overrides


def _keys(section, where: str) -> dict:
    """A section's keys and values; none for one that is left out."""
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{where} must hold keys and values")
    return section or {}


def datasets() -> tuple[str, ...]:
    """The names of all datasets that params/datasets/ describes."""
    return tuple(sorted(p.stem for p in (PARAMS / "datasets").glob("*.yaml")))


def load_dataset(name: str) -> Dataset:
    """The dataset that params/datasets/<name>.yaml describes.

    Errors: ConfigError for an unknown name (with the nearest right one), key, type or range, and
    for a file that gives itself another name.
    """
    if name not in datasets():
        raise ConfigError(unknown("dataset", name, datasets()))
    dataset = build(Dataset, read_yaml(PARAMS / "datasets" / f"{name}.yaml"), f"dataset {name}")
    if dataset.name != name:
        raise ConfigError(
            f"params/datasets/{name}.yaml has name: {dataset.name}, and would write into that data "
            f"set's folders: write name: {name} there, or rename the file")
    return dataset


def _values(scale: str, model: str, size: str) -> dict[str, dict]:
    """A model file's values by section, over those of the model that it is `like`; between the two
    the scale's recipe, where that model is of another scale.
    """
    where, known = f"params/{scale}/{model}.yaml", (*SECTIONS, "iwslt", "wmt", "like")
    loaded, recipe = read_yaml(PARAMS / scale / f"{model}.yaml"), {}
    values = {section: {} for section in SECTIONS}
    if (parent := loaded.pop("like", None)) is not None:
        of_scale, _, like = str(parent).rpartition("/")
        of_scale = of_scale or scale
        if like not in MODELS or of_scale not in SCALES or (of_scale, like) == (scale, model):
            raise ConfigError(f"{where}: "
                              f"{unknown('like', parent, [m for m in MODELS if m != model])}")
        values = _values(of_scale, like, size)
        if of_scale != scale and (PARAMS / scale / RECIPE).exists():
            recipe = read_yaml(PARAMS / scale / RECIPE)
    by_size = _keys(loaded.pop(size, None), f"{where}: {size}")
    loaded.pop({"iwslt": "wmt", "wmt": "iwslt"}[size], None)
    for place, part in ((f"params/{scale}/{RECIPE}", recipe), (where, loaded), (where, by_size)):
        for name in part:
            if name not in SECTIONS:
                raise ConfigError(f"{place}: {unknown('section', name, known)}")
        for section in SECTIONS:
            values[section] |= _keys(part.get(section), f"{place}: {section}")
    return values


def _named_once(load: Callable) -> Callable:
    """Refuse overrides of what the call names already, before Python does with a traceback."""
    names = list(inspect.signature(load).parameters)

    @functools.wraps(load)
    def checked(*run, **overrides):
        if wrong := overrides.keys() & set(names[:len(run)]):
            raise ConfigError(f"overrides name {', '.join(sorted(wrong))}, which has an option of "
                              "its own")
        return load(*run, **overrides)

    return checked


@_named_once
def load_config(model: str, dataset: str = "toy", scale: str = "smoke", seed: int = 1,
                train_data: str = "raw", **overrides) -> Config:
    """The resolved settings of one run.

    `params/<scale>/<model>.yaml` gives `architecture`, `training` and `evaluation`, or what differs
    from the model that it is `like` and, where that is another scale's, from this one's
    `recipe.yaml`; `iwslt` and `wmt` replace keys for datasets of that size, and `overrides` single
    keys of every section that has them.

    Errors: ConfigError for an unknown model, dataset, scale or parameter (with the nearest right
    one), a wrong type or a value out of range, and for overrides of what is named besides.
    """
    for kind, name, known in (("model", model, MODELS), ("scale", scale, SCALES),
                              ("train_data", train_data, ("raw", "distilled"))):
        if name not in known:
            raise ConfigError(unknown(kind, name, known))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed = {seed!r} must be a whole number, 0 or more and below 2^63")
    data = load_dataset(dataset)
    where = f"params/{scale}/{model}.yaml"
    known: dict[str, list[str]] = {}
    for section, cls in SECTIONS.items():
        for f in dataclasses.fields(cls):
            known.setdefault(f.name, []).append(section)
    values = _values(scale, model, data.size)
    for name, value in overrides.items():
        if name not in known:
            raise ConfigError(unknown("parameter", name, known))
        for section in known[name]:
            values[section][name] = value
    built = {s: build(cls, values[s], f"{where}, {s}") for s, cls in SECTIONS.items()}
    return Config(model, scale, seed, train_data, data, **built)


def run_arguments(parser: argparse.ArgumentParser, model: str = "tr_s") -> None:
    """Add the options that name one run: --model --dataset --scale --train-data --seed."""
    parser.add_argument("--model", default=model, help=" ".join(MODELS))
    parser.add_argument("--dataset", default="toy", help="a file of params/datasets/")
    parser.add_argument("--scale", default="smoke", help=" ".join(SCALES))
    parser.add_argument("--train-data", default="raw", help="raw distilled")
    parser.add_argument("--seed", type=int, default=1, help="of the run")


def config_of(asked: argparse.Namespace) -> Config:
    """The settings of the run that the options of `run_arguments` name, with `asked.overrides`, the
    text of single other ones. Errors: those of `load_config`.
    """
    return load_config(asked.model, asked.dataset, asked.scale, asked.seed, asked.train_data,
                       **parse_overrides(asked.overrides))
