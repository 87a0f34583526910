"""How much of a trained model's likelihood its confidence costs: one temperature, fitted on dev.

Dividing the logits of all subwords by a temperature T makes a model less sure and leaves the order
of the subwords as it is: greedy search and refinement write the same at any T. Likelihood that is
lost to over-confidence is lost for nothing that such a search would see. A search that multiplies
probabilities (a beam, Da's lookahead) may write something else, Ct's beam a good deal. T is
fitted by the strict log-likelihood of the dev set, to each checkpoint that a run keeps (the best by
dev BLEU and by dev LL), and the test set is scored and translated once, at that T. Source: Guo et
al. (2017), section 4.2, temperature scaling; here of every subword of a sentence.
"""

import math
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from lib.config import Config
from lib.evaluation import FIGURES, sentence_table, translations
from lib.evaluation.scoring import TrainedRun, likelihoods, load_run
from lib.likelihood.accounting import likelihood_terms
from lib.paths import write_json
from lib.runs import CALIBRATED, run_folder, write_table

__all__ = ["SAMPLES", "calibrate", "complete", "fit_temperature", "tempered"]

SAMPLES = 100  # K of a bound at the temperature
FIT_SAMPLES = 16  # K of a bound while the temperature is fitted; the same draws at each
RANGE = (0.5, 4.0)  # of temperatures
PRECISION = 0.01  # of the temperature's logarithm
COLUMNS = ("hypothesis", "n_tokens", "n_tokens_padded", "n_chars", "log_prob", "log_p_length")


def tempered(run: TrainedRun, temperature: float) -> TrainedRun:
    """The run with a copy of its model, p(subword | ...) = softmax(logits / temperature)."""
    model = deepcopy(run.model)
    model.scale_logits(1 / temperature)
    return replace(run, model=model)


def fit_temperature(run: TrainedRun, samples: int = FIT_SAMPLES) -> tuple[float, float, float]:
    """The temperature with the best strict log-likelihood of the dev set, which stands behind it as
    trained and at the temperature, in nats per token. Pairs of probability 0 aren't in it.
    """
    def dev_ll(log_temperature: float) -> float:
        model = tempered(run, math.exp(log_temperature))
        table = likelihoods(model, run.task.dev, samples, progress=False)
        joint, tokens = likelihood_terms(table[np.isfinite(table["log_prob"])], "strict")
        return joint.sum() / tokens.sum()

    best = minimize_scalar(lambda log_temperature: -dev_ll(log_temperature),
                           bounds=np.log(RANGE), options={"xatol": PRECISION})
    return math.exp(best.x), dev_ll(0.0), -best.fun


def calibrate(config: Config, samples: int = SAMPLES, progress: bool = True) -> dict:
    """Fit and score both checkpoints of an evaluated run; returns what calibration.json holds.

    `samples`, and by checkpoint (`bleu`, and `ll` where that is here, of another step) `step`,
    `dev_bleu`, `temperature`, `dev_ll` as trained and `dev_ll_calibrated`. calibrated.csv and
    calibrated_ll.csv are sentences.csv and sentences_ll.csv at the temperature.

    Errors: DataError for a run that isn't evaluated, CheckpointError from `load_run`.
    """
    folder = run_folder(config)
    metrics = folder.read_metrics()
    setting, texts = metrics.headline, metrics.test_set
    content = {"samples": min(samples, metrics.log_likelihood["strict"].samples),
               "references": texts.references, "sources": texts.sources}
    for by in CALIBRATED:
        if by == "ll" and not (folder.sentences_ll.exists() and folder.best_ll.exists()):
            continue
        run = load_run(config, by)
        temperature, before, after = fit_temperature(run)
        run = tempered(run, temperature)
        lines = translations(run, run.task.test, [setting], progress)[setting]
        sentences = sentence_table(run, lines, content["samples"], progress, resumable=False)
        bounds = [name for name in sentences if name.startswith("iw_bound_")]
        write_table(folder.path / CALIBRATED[by], sentences[[*COLUMNS, *bounds]], FIGURES)
        content[by] = {"step": run.step, "dev_bleu": run.dev_bleu, "temperature": temperature,
                       "dev_ll": before, "dev_ll_calibrated": after}
    write_json(folder.calibration, content)
    return content


def complete(configs: Iterable[Config], samples: int = SAMPLES, progress: bool = True) -> None:
    """Calibrate those evaluated runs whose weights are here and that have not been, with as many
    samples and both checkpoints.
    """
    for config in configs:
        folder = run_folder(config)
        if not (folder.metrics.exists() and folder.best.exists()):
            continue
        content, most = folder.read_calibration(), folder.read_metrics().log_likelihood["strict"]
        lacking = folder.sentences_ll.exists() and folder.best_ll.exists() and "ll" not in content
        if lacking or content.get("samples", 0) < min(samples, most.samples):
            calibrate(config, samples, progress)
