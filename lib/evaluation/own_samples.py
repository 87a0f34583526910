"""What a run writes when it draws from itself, how probable it is there, and under other runs.

`samples.csv` in a run's folder: draws from p(y|x) for some test sentences, each with its
log-probability, exact or held between two bounds; `samples.json`: how they were made.
`scored_samples.json`: other runs' samples under this one. All are computed once.

The upper bound: a draw comes with the z (of a masked model: the order) that it was made with, an
exact sample of p(z|y, x). With its weight w_0 among K weights of draws from q,
E log 1/(K+1) (w_0 + ... + w_K) >= log p(y|x), while without it the mean is the importance-weighted
lower bound. Source: Sobolev and Vetrov (2019), "Importance weighted hierarchical variational
inference", theorem 1 and its upper bound.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from lib import runtime
from lib.batching import Tokenised, collate, padded_length
from lib.config import Config
from lib.decoding import Procedure, draws
from lib.decoding.candidates import ancestral_latents
from lib.decoding.unmasking import ordered_draws
from lib.errors import ConfigError, DataError, check_least
from lib.evaluation.refining import some_lines
from lib.evaluation.scoring import TrainedRun, likelihoods, load_run
from lib.likelihood.accounting import ratio_of_sums
from lib.paths import read_json, write_json
from lib.runs import run_folder, write_table
from lib.subword import EOS, one_line, text_fingerprint

__all__ = ["SampleSettings", "available", "cross_scores", "draw_samples", "one_each", "own_samples",
           "read_samples"]

ROWS_AT_ONCE = 512  # draws that are made together
FIGURES = 7  # significant figures in samples.csv


@dataclass(frozen=True)
class SampleSettings:
    """What is drawn. Errors: ConfigError for a value out of its range."""

    sentences: int = 40  # test sentences, evenly spaced
    samples: int = 64  # draws a sentence
    importance: int = 64  # K of both bounds, where there is no exact likelihood
    seed: int = 0

    def __post_init__(self):
        check_least(self, sentences=1, samples=1, importance=1, seed=0)

    def covers(self, wanted: "SampleSettings") -> bool:
        """Whether samples made so tell all that those of `wanted` would."""
        return self.seed == wanted.seed and all(
            getattr(self, name) >= getattr(wanted, name)
            for name in ("sentences", "samples", "importance"))

    def lines(self, test_lines: int) -> Int[np.ndarray, " sentences"]:
        """The lines of the test set. Errors: ConfigError where it has fewer."""
        if test_lines < self.sentences:
            raise ConfigError(f"{self.sentences} sentences, but the test set has {test_lines}: ask "
                              "for fewer")
        return some_lines(test_lines, self.sentences)


# ---- drawing ----

def draw_samples(run: TrainedRun, settings: SampleSettings, progress: bool = True) -> pd.DataFrame:
    """Draws from the run's p(y|x), a row a sentence and string, by line and then first draw.

    `line`, `text`, `draws` (which of the sentence's draws wrote it, from 0, parted by spaces),
    `proper` (how many of them), `n_tokens` (with one EOS), `lower` and `upper`: log p(y, T|x) in
    nats with the length, bounds in expectation and the same number where the likelihood is exact.
    A latent model may pad further than a string asks, or write on after EOS: such a draw isn't
    `proper`, and where no draw of a string is, `upper` is NaN.
    """
    data = run.task.test.take(settings.lines(len(run.task.test)))
    each, rows = settings.samples, []
    at_once = max(1, ROWS_AT_ONCE // each)
    with tqdm(total=len(data), desc=f"draws of {run.config.model}", unit="sentence",
              disable=not progress, leave=False) as bar:
        for start in range(0, len(data), at_once):
            some = np.arange(start, min(start + at_once, len(data)))
            for place, (ids, *values) in enumerate(zip(*_draw(run, data.take(some), settings),
                                                       strict=True)):
                rows.append((start + place // each, place % each, tuple(ids), *values))
            bar.update(len(some))
    frame = pd.DataFrame(rows, columns=["row", "draw", "ids", "log_weight", "proper"])
    return _bounded(run, data, frame, settings, progress)


@torch.no_grad()
def _draw(run: TrainedRun, data: Tokenised, settings: SampleSettings,
          ) -> tuple[list[list[int]], Float[np.ndarray, " draws"], Bool[np.ndarray, " draws"]]:
    """Draws of some sentences, those of a sentence together; log w_0 of what each was made with,
    without the length (NaN for exact likelihoods); whether it is padded as its string is.
    """
    model, where = run.model, run.model.device
    batch = collate(data, np.arange(len(data)), model.multiple).to(where)
    source = batch.source, batch.source_mask
    with runtime.autocast(run.config.training.precision, where):
        if model.likelihood == "exact":
            procedure = Procedure("sample", samples=settings.samples)
            strings = [row for rows in draws(model, *source, procedure, settings.seed)
                       for row in rows]
            return strings, np.full(len(strings), math.nan), np.full(len(strings), True)
        memory = model.encode(*source)
        if model.latents:
            y, z, real = ancestral_latents(model, memory, *source, settings.samples,
                                           seed=settings.seed)
            q = model.posterior(memory, y, real)
            log_weight = (model.decode(z, memory, real).log_prob(y, real) - q.log_prob(z)
                          + model.prior(memory, real.shape[1], real).log_prob(z))
        else:
            y, order, real = ordered_draws(model, memory, *source, settings.samples,
                                           seed=settings.seed)
            log_weight = model.in_order(memory, y, real, order)
    return _strings(y, real, model.multiple, log_weight)


def _strings(y: Int[Tensor, "rows positions"], real: Tensor, multiple: int, log_weight: Tensor,
             ) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """What each draw says, its weight, and whether it is padded as its string is."""
    ends = (y == EOS) | ~real
    words = ends.int().cumsum(1).eq(0).sum(1)
    proper = (padded_length(words, multiple) == real.sum(1)) & (ends.sum(1) == y.shape[1] - words)
    strings = [row[:count] for row, count in zip(y.tolist(), words.tolist(), strict=True)]
    return strings, log_weight.double().cpu().numpy(), proper.cpu().numpy()


def _bounded(run: TrainedRun, data: Tokenised, frame: pd.DataFrame, settings: SampleSettings,
             progress: bool) -> pd.DataFrame:
    """`draw_samples`'s table: equal strings of a sentence in one row, with both bounds."""
    grouped = frame.groupby(["row", "ids"], sort=False)
    distinct = list(grouped.groups)
    rows, strings = [row for row, _ in distinct], [list(ids) for _, ids in distinct]
    count = settings.importance
    scored = likelihoods(run, _pairs(data, rows, strings), count, settings.seed, progress)
    length, bound = scored["log_p_length"].to_numpy(), scored["log_prob"].to_numpy()
    result = []
    for place, (_, part) in enumerate(grouped):
        lower = upper = bound[place]
        if run.model.likelihood != "exact":
            own = part.loc[part["proper"], "log_weight"].to_numpy()
            upper = (np.logaddexp(bound[place] + math.log(count), own).mean()
                     - math.log(count + 1)) if len(own) else math.nan
        result.append({"line": int(data.lines[rows[place]]), "text": "",
                       "draws": " ".join(map(str, part["draw"])),
                       "proper": int(part["proper"].sum()), "n_tokens": len(strings[place]) + 1,
                       "lower": lower + length[place], "upper": upper + length[place]})
    texts = [one_line(text) for text in run.task.vocabulary.decode(strings)]
    return pd.DataFrame(result).assign(text=texts)


def _pairs(data: Tokenised, rows: Sequence[int], strings: Sequence[Sequence[int]]) -> Tokenised:
    """Those sources, each with a string as its target; the lines are numbered from 0."""
    sources = data.take(np.asarray(rows))
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in strings])]).astype(np.int64)
    ids = np.array([i for row in strings for i in row], np.int32)
    return Tokenised(sources.source_ids, sources.source_offsets, ids, offsets,
                     np.arange(len(strings)))


# ---- what is on disk ----

def own_samples(config: Config, settings: SampleSettings, progress: bool = True) -> pd.DataFrame:
    """`read_samples`, or else `draw_samples` from the run's checkpoint, which are kept.

    Errors: CheckpointError for a run that has neither; DataError for damaged files.
    """
    stored = read_samples(config, settings)
    if stored is not None:
        return stored
    run, folder = load_run(config), run_folder(config).path
    frame = draw_samples(run, settings, progress)
    head = {"settings": asdict(settings), "step": run.step, "dev_bleu": run.dev_bleu,
            "sources": text_fingerprint(run.task.sources("test"))}
    write_table(folder / "samples.csv", frame, FIGURES)
    write_json(folder / "samples.json", head)
    return frame


def read_samples(config: Config, wanted: SampleSettings) -> pd.DataFrame | None:
    """The samples that the run's folder holds; None where there are none as fine as `wanted`, or
    they are of other weights than metrics.json.

    Errors: DataError for damaged files.
    """
    folder = run_folder(config)
    path = folder.path / "samples.json"
    if not path.exists():
        return None
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        frame = pd.read_csv(folder.path / "samples.csv", keep_default_na=False,
                            na_values={"upper": [""]}, dtype={"text": str, "draws": str})
        made = SampleSettings(**head["settings"])
        metrics = folder.read_metrics()
        same = (head["step"], head["dev_bleu"]) == (metrics.step, metrics.dev_bleu) and head.get(
            "sources", "") in ("", metrics.test_set.sources)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"the samples in {folder.path} are damaged ({error!r}): remove samples.csv "
                        "and samples.json there") from error
    return frame if same and made.covers(wanted) else None


def available(configs: Iterable[Config], wanted: SampleSettings) -> list[Config]:
    """Those of evaluated runs that have samples as fine as `wanted`, or a checkpoint to draw from.
    """
    return [config for config in configs if (run := run_folder(config)).metrics.exists()
            and (run.best.exists() or read_samples(config, wanted) is not None)]


def one_each(frame: pd.DataFrame, draw: int = 0) -> pd.DataFrame:
    """The row of each sentence that holds its draw of this number, by line."""
    chosen = [str(draw) in of.split() for of in frame["draws"]]
    return frame[chosen].sort_values("line").reset_index(drop=True)


# ---- under other runs ----

def cross_scores(config: Config, samples: Mapping[str, pd.DataFrame], importance: int,
                 progress: bool = True) -> pd.DataFrame:
    """Each model's first draws (`one_each`) under this run: a row a model.

    samples: model -> its samples, of one vocabulary with this run's. Columns: `scorer`, `model`,
    `log_likelihood` (strict, nats per token, of the strings that aren't impossible here), its
    `error` over sentences, `impossible` (strings of probability 0), `sentences`. Kept in the run's
    folder, and computed from its checkpoint where the strings or the weights are others.
    """
    path = run_folder(config).path / "scored_samples.json"
    texts = {model: one_each(frame) for model, frame in samples.items()}
    metrics = run_folder(config).read_metrics()
    inputs = {model: [text_fingerprint(frame["text"].tolist()), importance, metrics.step,
                      metrics.dev_bleu] for model, frame in texts.items()}
    known = read_json(path)  # a mere cache
    missing = [model for model in texts if known.get(model, {}).get("asked") != inputs[model]]
    if missing:
        run = load_run(config)
        for model in missing:
            known[model] = {"asked": inputs[model],
                            **_score(run, texts[model], importance, progress)}
        write_json(path, known)
    names = ("log_likelihood", "error", "impossible", "sentences")
    return pd.DataFrame([{"scorer": config.model, "model": model}
                         | {name: known[model][name] for name in names} for model in texts])


def _score(run: TrainedRun, frame: pd.DataFrame, importance: int, progress: bool) -> dict:
    """The numbers of one model's strings."""
    strings = run.task.vocabulary.encode(frame["text"].tolist())
    part = likelihoods(run, _pairs(run.task.test, frame["line"].tolist(), strings), importance, 0,
                       progress)
    joint = (part["log_prob"] + part["log_p_length"]).to_numpy(np.float64)
    possible = np.isfinite(joint)
    mean, error = ratio_of_sums(joint[possible], part["n_tokens"].to_numpy()[possible]) \
        if possible.sum() > 1 else (None, None)  # JSON has no NaN
    return {"log_likelihood": mean, "error": error, "impossible": int((~possible).sum()),
            "sentences": len(frame)}
