"""The one door to run folders: where a run's files lie, what they hold, what makes them."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from lib.config import Config
from lib.errors import DataError
from lib.paths import outputs_root, path_in, read_arrays, read_json, write_text

__all__ = ["Likelihood", "Metrics", "RunFolder", "Score", "TestSet", "at_full_kl", "find_runs",
           "run_folder", "seed_of", "write_table"]

# Columns of sentences.csv that a model may lack: empty, and NaN when read.
OPTIONAL = ("elbo", "released_estimate", "effective_sample_size")
# The tables of test sentences, by checkpoint: as trained, and at its temperature.
SENTENCES = {"bleu": "sentences.csv", "ll": "sentences_ll.csv"}
CALIBRATED = {"bleu": "calibrated.csv", "ll": "calibrated_ll.csv"}


# ---- where ----

@dataclass(frozen=True)
class RunFolder:
    """One run: `runs/<dataset>/<scale>/<model>/<train_data>/s<seed>/` below the outputs."""

    dataset: str
    scale: str
    model: str
    train_data: str = "raw"
    seed: int = 1

    @property
    def path(self) -> Path:
        """The run's folder."""
        return (outputs_root() / "runs" / self.dataset / self.scale / self.model
                / self.train_data / f"s{self.seed}")

    config = path_in("config.json")  # every resolved setting, as JSON
    history = path_in("history.csv")  # a row a validation, as CSV
    validations = path_in("validations.npz")  # every dev sentence's terms of its sums
    metrics = path_in("metrics.json")  # BLEU, likelihoods and speed on the test set, as JSON
    sentences = path_in(SENTENCES["bleu"])  # a row a test sentence, as CSV
    sentences_ll = path_in(SENTENCES["ll"])  # the same for best_ll.pt, if of another step
    calibration = path_in("calibration.json")  # temperatures (`lib.evaluation.temperature`)
    bleu_counts = path_in("bleu_counts.npz")  # of each sentence and decoding setting
    checkpoints = path_in("checkpoints")  # not in git but for the quick start's
    best = path_in("checkpoints/best.pt")  # the weights with the best dev BLEU
    best_ll = path_in("checkpoints/best_ll.pt")  # those with the best dev LL
    last = path_in("checkpoints/last.pt")  # the training's whole state

    # ---- what makes its files ----

    @property
    def train_command(self) -> str:
        """The papermill line that trains the run."""
        return self._command("02_train")

    @property
    def evaluate_command(self) -> str:
        """The papermill line that scores the run on the test set."""
        return self._command("03_eval")

    @property
    def calibrate_command(self) -> str:
        """The papermill line that scores the run at a temperature, its weights being here."""
        return (f"papermill notebooks/12_calibration.ipynb OUT.ipynb -p dataset {self.dataset} "
                f"-p scale {self.scale}")

    def _command(self, notebook: str) -> str:
        data = "" if self.train_data == "raw" else f" -p train_data {self.train_data}"
        return (f"papermill notebooks/{notebook}.ipynb OUT.ipynb -p model {self.model} "
                f"-p dataset {self.dataset} -p scale {self.scale}{data} -p seed {self.seed}")

    # ---- what they hold ----

    def read_metrics(self) -> "Metrics":
        """What metrics.json holds. Errors: DataError where it is missing, damaged or too old."""
        values = self._read(self.metrics, lambda file: json.loads(file.read_text("utf-8")))
        try:
            return Metrics.of(values)
        except KeyError as error:
            raise DataError(f"{self.metrics} has no {error}: {self.evaluate_command}") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.metrics} is damaged ({error}): {self.evaluate_command}") from error

    def known_metrics(self) -> "Metrics | None":
        """`read_metrics`; None of a file that is missing, damaged or too old, and to be made."""
        try:
            return self.read_metrics()
        except DataError:
            return None

    def read_sentences(self, column: str = "hypothesis", by: str = "bleu", *,
                       calibrated: bool = False, samples: int = 0) -> pd.DataFrame:
        """sentences.csv, a row a test sentence in corpus order; by "ll": sentences_ll.csv;
        calibrated: the same at the temperature fitted on dev, with some of its columns.

        Columns: `hypothesis` (text, of the headline's decoding; may be empty, may read "nan"),
        `n_tokens` (real tokens and one EOS), `n_tokens_padded`, `n_chars`, and in nats `log_prob`
        (exact, or the importance-weighted bound, without the length) and `log_p_length`; of latent
        models `elbo`, `released_estimate`, `effective_sample_size` and `iw_bound_<K>`.
        column: another column of hypotheses that takes the place of `hypothesis`. samples: the
        bound at so many samples, where the file has it, takes the place of `log_prob`.
        Errors: DataError where the file or that column is missing.
        """
        path = self.path / (CALIBRATED if calibrated else SENTENCES)[by]
        table = self._read(path, lambda file: pd.read_csv(
            file, keep_default_na=False, na_values={name: [""] for name in OPTIONAL}),
            self.calibrate_command if calibrated else "")
        if column not in table:
            raise DataError(f"{path} has no column {column}: {self.evaluate_command}")
        if samples and (bound := f"iw_bound_{samples}") in table:
            table = table.assign(log_prob=table[bound]).drop(columns=[
                name for name in table if name.startswith("iw_bound_")
                and int(name.removeprefix("iw_bound_")) >= samples])
        return table.assign(hypothesis=table[column])

    def read_calibration(self) -> dict:
        """What calibration.json holds; {} where there is none of the weights, and the texts, that
        were scored.
        """
        content, metrics = read_json(self.calibration), self.read_metrics()
        scored, texts = content.get("bleu", {}), metrics.test_set
        if (scored.get("step"), scored.get("dev_bleu")) != (metrics.step, metrics.dev_bleu) or (
                content.get("references", texts.references), content.get("sources", texts.sources)
                ) != (texts.references, texts.sources):
            return {}
        if content.get("ll", {}).get("step") != metrics.best_ll.get("step"):
            content.pop("ll", None)  # another checkpoint has the best dev LL since
        return content

    def read_history(self) -> pd.DataFrame:
        """history.csv, a row a validation: `step`, `seconds`, every term of the loss as `train_`
        and `dev_<term>` (nats per token), `dev_ll` (strict), `dev_bleu`, `learning_rate` and
        `kl_weight`. Errors: DataError where it is missing.
        """
        return self._read(self.history, pd.read_csv, self.train_command)

    def read_bleu_counts(self) -> dict[str, Int[np.ndarray, "sentences 10"]]:
        """`lib.bleu.bleu_statistics` of each decoding setting; none of a run that was evaluated
        before they were kept. Errors: DataError where the file is damaged.
        """
        kept = self._read(self.bleu_counts, read_arrays) if self.bleu_counts.exists() else {}
        return {name: counts.astype(np.int64) for name, counts in kept.items()}

    def _read(self, file: Path, reader: Callable, command: str = ""):
        """What `reader` makes of the file, or the command that makes the file anew."""
        command = command or self.evaluate_command
        try:
            return reader(file)
        except FileNotFoundError:
            raise DataError(f"{file} is missing: {command}") from None
        except ValueError as error:
            raise DataError(f"{file} is damaged ({error}): {command}") from error


def run_folder(config: Config) -> RunFolder:
    """The folder of the run that these settings describe."""
    return RunFolder(config.dataset.name, config.scale, config.model, config.train_data,
                     config.seed)


def at_full_kl(history: pd.DataFrame) -> pd.DataFrame:
    """The validations at the largest KL weight that a history has: at a smaller one a model is
    another; all of them where there is no such column.
    """
    if "kl_weight" not in history:
        return history
    return history[history["kl_weight"] == history["kl_weight"].max()]


def find_runs(dataset: str = "*", scale: str = "*") -> list[RunFolder]:
    """The evaluated runs (those with a metrics.json) below the outputs, in order of path."""
    files = sorted((outputs_root() / "runs").glob(f"{dataset}/{scale}/*/*/s*/metrics.json"))
    return [RunFolder(*file.parts[-6:-2], seed) for file in files
            if (seed := seed_of(file.parent)) is not None]


def seed_of(folder: Path) -> int | None:
    """The seed of a run's folder, which is called s<seed>; None of any other, a copy say."""
    digits = folder.name.removeprefix("s")
    return int(digits) if digits.isdecimal() else None


# ---- what metrics.json holds ----

@dataclass(frozen=True)
class Score:
    """How well one decoding setting translates the test set, from 0 to 100; NaN: not measured.

    score: corpus BLEU. score_low, score_high: its 95% interval over resampled test sentences.
    gain: over the first setting of the run, with its own interval.
    """

    score: float
    signature: str
    chrf: float = math.nan
    score_low: float = math.nan
    score_high: float = math.nan
    gain: float = math.nan
    gain_low: float = math.nan
    gain_high: float = math.nan


@dataclass(frozen=True)
class Likelihood:
    """A log-likelihood in its accounting's unit: mean, standard error over sentences, samples K.

    Where some sentences are `impossible` (probability 0) mean and error are NaN.
    """

    mean: float
    standard_error: float
    samples: int = 1
    impossible: int = 0

    @property
    def error_text(self) -> str:
        """The standard error in words; one sentence has none."""
        return ("n = 1" if math.isnan(self.standard_error) else
                f"standard error {self.standard_error:.3f} over sentences")


@dataclass(frozen=True)
class TestSet:
    """What a run was scored on, with `text_fingerprint` of both sides ("" in an older file)."""

    name: str
    lines: int
    references: str = ""
    sources: str = ""


@dataclass(frozen=True)
class Metrics:
    """How one run did on the test set.

    bleu: by decoding setting (`greedy`, `beam4`, `k0` ... `k8`, `mbr16-chrf`); `headline` names the
    setting whose BLEU and hypotheses are the run's own. objective: what training minimised
    (`Config.objective`).
    log_likelihood: by accounting. convergence: whether the importance-weighted bound has converged
    (`lib.evaluation.scoring.convergence`). diagnostics: of the latent variable, or of the order of
    a masked model; none without one.
    training: `step`, `tokens`, `seconds` and what it was `ended_by`: patience (converged), steps
    (the limit), "" (nothing yet: `stopped`).
    best_ll: of the checkpoint with the best dev LL: `step`, and where that isn't this one's its
    `dev_bleu`, `bleu` (of the headline's setting) and `log_likelihood`.
    vocabulary: its fingerprint; precision: bf16 or fp32, of the decoder's products ("": not known).
    """

    model: str
    family: str
    dataset: str
    scale: str
    train_data: str
    seed: int
    parameters: int
    bleu: dict[str, Score]
    headline: str
    log_likelihood: dict[str, Likelihood]
    test_set: TestSet
    vocabulary: str = ""
    precision: str = ""
    step: int = 0
    dev_bleu: float = math.nan
    objective: str = ""
    training: dict = field(default_factory=dict)
    best_ll: dict = field(default_factory=dict)
    convergence: dict = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    speed: dict = field(default_factory=dict)

    @classmethod
    def of(cls, values: dict) -> "Metrics":
        """From the parsed file; KeyError names what is missing, what is unknown is left out."""
        values = dict(values)
        for name, kind in (("bleu", Score), ("log_likelihood", Likelihood)):
            values[name] = {key: _fill(kind, cell) for key, cell in values[name].items()}
        values["test_set"] = _fill(TestSet, values["test_set"])
        metrics = _fill(cls, values)
        metrics.bleu[metrics.headline]
        metrics.log_likelihood["strict"]
        return metrics

    @property
    def stopped(self) -> bool:
        """Whether its training was cut off before anything ended it."""
        return self.training.get("ended_by") == ""

    @property
    def own(self) -> Score:
        """The score of the headline's decoding."""
        return self.bleu[self.headline]

    @property
    def mbr(self) -> Score | None:
        """The score of minimum-Bayes-risk decoding, None where it wasn't run."""
        return next((score for name, score in self.bleu.items() if name.startswith("mbr")), None)


def _fill(kind, values: dict):
    """The dataclass of those values that it has a place for; a number that is null is NaN."""
    filled = {}
    for entry in dataclasses.fields(kind):
        if entry.name in values:
            value = values[entry.name]
            if entry.type is float:
                value = math.nan if value is None else float(value)
            filled[entry.name] = value
        elif entry.default is entry.default_factory is dataclasses.MISSING:
            raise KeyError(entry.name)
    return kind(**filled)


def write_table(path: Path, frame: pd.DataFrame, figures: int) -> None:
    """`write_text` of a table as CSV, its numbers with so many significant figures."""
    write_text(path, frame.to_csv(index=False, float_format=f"%.{figures}g", lineterminator="\n"))
